"""ComfyUI's LATENT form of our latents: `samples`, and what the next node of ours needs to know beside them."""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..ltx23_core.errors import RequestError
from .checks import part_of
from .host import memory

if TYPE_CHECKING:
    from torch import Tensor

    from ..ltx23_core.media import Audio
    from ..ltx23_core.pipeline import Pipeline
    from ..ltx23_core.plan.latents import Latents

log = logging.getLogger("ltx23")
STREAMS = ("video", "audio")
VIDEO_DIMENSIONS = 5  # (B, C, F', H', W')
DEFAULT_FPS = 24.0  # the official one, for latents that come from other nodes
RATE_SLACK = 0.1  # seconds: the x2 of frame rates makes 2 F - 1 frames, so a frame less


def to_latents(latents: Latents) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(video, audio) as LATENT, None for a stream that was not made.

    Beside `samples`, float32 (B, C, F', H', W') and (B, C, T, bins): fps, frames, and what lets a second stage go on
    with the same stream of noise (seed, drawn). The audio of a run on a given sound has it, too (waveform).
    """
    shared = {"fps": latents.fps, "frames": latents.frames, "seed": latents.seed, "drawn": latents.drawn}
    video = audio = None
    if latents.video is not None:
        video = {"samples": memory.intermediate(latents.video), **shared}
    if latents.audio is not None:
        audio = {"samples": memory.intermediate(latents.audio), **shared}
        if latents.waveform is not None:
            audio["waveform"] = latents.waveform
    return video, audio


def streams_of(latent: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """(video, audio) samples of a LATENT: ComfyUI's own samplers of LTX-2.3 have both in one."""
    samples = part_of(latent, "samples")
    if getattr(samples, "is_nested", False):
        video, audio, *_ = samples.unbind()
        return video, audio
    if len(getattr(samples, "shape", ())) == VIDEO_DIMENSIONS:
        return samples, None
    return None, samples


def samples_of(latent: dict[str, Any] | None, what: str) -> Tensor:
    """The samples of a LATENT; `RequestError` where the run made none, or what is linked is none."""
    if latent is None:
        raise RequestError(f"there is no {what} latent", f"a run that makes {what}",
                           f"Set streams of Sampler to both or {what}.")
    samples = part_of(latent, "samples")
    if getattr(samples, "is_nested", False):
        samples = dict(zip(STREAMS, streams_of(latent), strict=True))[what]
    if samples is None or not len(getattr(samples, "shape", ())) or not len(samples):
        raise RequestError(f"the {what} latent has no samples", "at least one",
                           "Connect the latent of a Sampler.")
    return samples


def sound_of(model: Pipeline, audio: dict[str, Any], index: int | None = None) -> Audio:
    """The sound of an audio LATENT, decoded; see `sound_at`."""
    found = sound_at(audio, index)
    if "waveform" in audio:
        return found
    return model.decode_audio(found)


def sound_at(audio: dict[str, Any], index: int | None = None) -> Tensor | Audio:
    """What the sound of one sample, or all, is decoded from; one sound serves every sample of a batch.

    The original sound itself where the run was made on it.

    Raises:
        RequestError: there is no sound for that sample.
    """
    if "waveform" in audio:
        return audio["waveform"]
    samples = samples_of(audio, "audio")
    if index is None:
        return samples
    if len(samples) == 1:
        index = 0
    if not 0 <= index < len(samples):
        raise RequestError(f"sound {index + 1} is wanted and the audio latent has {len(samples)}",
                           "one sound for all videos, or one for each",
                           "Connect the audio latent of the same Sampler.")
    return samples[index:index + 1]


def check_together(video: dict[str, Any] | None, audio: dict[str, Any] | None) -> None:
    """What is known about a video and an audio latent before any of it is decoded.

    Raises:
        RequestError: neither is there, or their numbers of samples do not go together.
    """
    if video is None and audio is None:
        raise RequestError("there is neither a video nor an audio latent", "at least one of them",
                           "Connect the latents of a Sampler.")
    if video is None or audio is None:
        return
    pictures, sounds = len(samples_of(video, "video")), len(samples_of(audio, "audio"))
    if sounds not in (1, pictures) and "waveform" not in audio:
        raise RequestError(f"the video latent has {pictures} samples and the audio latent {sounds}",
                           f"1 or {pictures} sounds", "Connect both latents of the same Sampler.")
    tell_rates(video, audio)


def tell_rates(video: dict[str, Any], audio: dict[str, Any]) -> None:
    """Say in the log where two latents last differently long, as those of runs with other frames or fps do."""
    for latent in (video, audio):
        if not latent.get("fps") or not latent.get("frames"):
            return
    seen, heard = video["frames"] / video["fps"], audio["frames"] / audio["fps"]
    if abs(seen - heard) > RATE_SLACK:
        log.warning("the video latent lasts %.2f s (%d frames at %g fps) and the audio latent %.2f s (%d at "
                    "%g): picture and sound will not be in step",
                    seen, video["frames"], video["fps"], heard, audio["frames"], audio["fps"])


def from_latents(video: dict[str, Any] | None, audio: dict[str, Any] | None, frames: int, fps: float) -> (
        Latents | None):
    """What a run starts from; None where nothing is linked. Latents of other nodes have no seed: new noise."""
    from ..ltx23_core.plan.latents import Latents

    if video is None and audio is None:
        return None
    known = video or audio or {}
    if video is not None and audio is not None:
        tell_rates(video, audio)
    elif audio is None:
        log.info("start_audio is not linked: the sound, where one is made, begins from noise and follows "
                 "the picture")
    pictures = sound = None
    if video is not None:
        pictures = samples_of(video, "video")
    if audio is not None:
        sound = samples_of(audio, "audio")
    return Latents(pictures, sound, fps=fps, frames=frames, seed=known.get("seed"),
                   drawn=tuple(known.get("drawn", ())))
