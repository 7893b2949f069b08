"""ComfyUI's LATENT form of our latents: `samples`, and what the next node of ours needs to know beside them."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .host import memory

if TYPE_CHECKING:
    from ..ltx23_core.media import Audio
    from ..ltx23_core.pipeline import Pipeline
    from ..ltx23_core.plan.latents import Latents


def to_latents(latents: Latents) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(video, audio) as LATENT, None for a stream that was not made.

    Beside `samples`, float32 (B, C, F', H', W') and (B, C, T, bins): fps, frames, and what lets a second stage go on
    with the same stream of noise (seed, drawn). The audio of a run on a given sound has it, too (waveform).
    """
    shared = {"fps": latents.fps, "frames": latents.frames, "seed": latents.seed, "drawn": latents.drawn}
    video, audio = (None if part is None else {"samples": memory.intermediate(part), **shared}
                    for part in (latents.video, latents.audio))
    if audio is not None and latents.waveform is not None:
        audio["waveform"] = latents.waveform
    return video, audio


def sound_of(model: Pipeline, audio: dict[str, Any], index: int | None = None) -> Audio:
    """The sound of an audio LATENT, of one sample or all: the original one where the run was made on it."""
    samples = audio["samples"] if index is None else audio["samples"][index:index + 1]
    return audio["waveform"] if "waveform" in audio else model.decode_audio(samples)


def from_latents(video: dict[str, Any] | None, audio: dict[str, Any] | None, frames: int, fps: float) -> (
        Latents | None):
    """What a run starts from; None where nothing is linked. Latents of other nodes have no seed: new noise."""
    from ..ltx23_core.plan.latents import Latents

    if video is None and audio is None:
        return None
    known = video or audio or {}
    samples = (None if latent is None else latent["samples"] for latent in (video, audio))
    return Latents(*samples, fps, frames, known.get("seed"), tuple(known.get("drawn", ())))
