"""Source clips: frames and sound that a condition takes from, in the rate, length and size of the result."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import MediaError, RequestError
from ..geometry import TIME_SCALE
from ..media.audio import Audio, check_sound, is_finite
from ..media.image import check_pixels, resize_frames
from ..media.rate import nearest_frames
from ..plan.condition import StageSetting
from ..sampling.state import video_to_tokens

log = logging.getLogger(__name__)
MAX_RATE = 1000.0
MARGIN = 1.0  # seconds of sound encoded beyond what is used, so that the cut does not touch its last latents


@dataclass(frozen=True)
class SourceClip:
    """A clip to take from. Unlike pictures its frames get no H.264 round trip: they are video frames (official).

    Attributes:
        frames: (F, H, W, 3), uint8 or float in [0, 1], any size: scaled to cover the result and cropped; or None.
        audio: mono or stereo sound of any rate, beginning with the first frame; or None.
        fps: frames per second of the source; frames are repeated or left out where the result has another rate.
            None: as the result, frame for frame.
    """

    frames: Tensor | None = None
    audio: Audio | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no clip."""
        if self.frames is None and self.audio is None:
            raise RequestError("a source clip has neither frames nor sound", "frames, sound or both",
                               "Give it a video, images or audio.")
        if self.frames is not None:
            check_frames(self.frames)
        if self.audio is not None:
            check_sound(self.audio)
        if self.fps is not None and not 0 < self.fps <= MAX_RATE:
            raise RequestError(f"the source clip has {self.fps} frames a second",
                               f"above 0 and up to {MAX_RATE:g}",
                               "Use the rate of the file it comes from, or 0 for that of the result.")

    def need_frames(self, what: str) -> None:
        """Raise `RequestError` if there are no frames; ``what`` needs them."""
        if self.frames is None:
            raise RequestError(f"the clip of {what} has no frames", "frames", "Link a video or images.")

    def picks(self, fps: float) -> tuple[int, ...]:
        """The source frame of each frame of the source at another rate; nearest in time, earlier if between two."""
        if self.frames is None:
            return ()
        if self.fps is None:
            return tuple(range(len(self.frames)))
        return nearest_frames(len(self.frames), self.fps, fps)

    def first(self, frames: int, fps: float) -> tuple[int, ...]:
        """`picks` of a result of so many frames."""
        return self.picks(fps)[:frames]

    def check_length(self, frames: int, fps: float, what: str) -> None:
        """Note in the log if the source is longer than a result of so many frames, which cuts it.

        Raises:
            RequestError: the source is shorter.
        """
        count = len(self.picks(fps))
        if count < frames:
            known = max(1, (count - 1) // TIME_SCALE * TIME_SCALE + 1)
            raise RequestError(f"the clip of {what} has {count} frames at {fps:g} fps, the result {frames}",
                               "a clip at least as long as the result",
                               f"Set frames to {known}, or use Extend.")
        note_cut(what, count - frames)


def note_cut(what: str, frames: int) -> None:
    """Say in the log that frames of a source are not used, if any."""
    if frames > 0:
        log.info("%s: %d frames at the end of the clip are left out", what, frames)


def check_frames(frames: Tensor) -> None:
    """Raise `MediaError` for what is not RGB frames."""
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise MediaError(f"the source frames have shape {tuple(frames.shape)}", "(frames, height, width, 3)",
                         "Give RGB frames, channels last, without alpha.")
    check_pixels(frames, "the source clip")
    if not is_finite(frames):
        raise MediaError("the source frames hold NaN or infinity", "finite pixels in [0, 1]",
                         "Make them again; a step before this one went wrong.")


def video_tokens(stage: StageSetting, frames: Tensor, picks: Sequence[int]) -> Tensor:
    """Frames of a clip at the stage's size, encoded once a run: tokens (1, k H' W', C)."""
    return video_to_tokens(encode_frames(stage, frames, picks, stage.width, stage.height))


def encode_frames(stage: StageSetting, frames: Tensor, picks: Sequence[int],
                  width: int, height: int) -> Tensor:
    """Latent (1, C, k, height / 32, width / 32) of some frames (F, H, W, 3), made once a run."""
    def make() -> Tensor:
        pixels = resize_frames(frames, picks, height, width, stage.encoders.dtype, check=stage.check)
        return stage.encoders.encode_video(pixels)

    return stage.once(frames, (tuple(picks), width, height), make)


def audio_latent(stage: StageSetting, audio: Audio, seconds: float) -> Tensor:
    """Latent (1, C, T, bins) of the beginning of a sound, made once a run; a little more than so many seconds."""
    def make() -> Tensor:
        return stage.encoders.encode_audio(cut_sound(audio, 0.0, seconds + MARGIN))

    return stage.once(audio, seconds, make)


def cut_sound(audio: Audio, start: float, seconds: float, pad: bool = False) -> Audio:
    """A stretch of a sound, in seconds from its beginning; with ``pad`` silence fills what it lacks at the end."""
    first, count = round(start * audio.sample_rate), round(seconds * audio.sample_rate)
    waveform = audio.waveform[..., first:first + count]
    missing = count - waveform.shape[-1]
    if pad and missing:
        waveform = functional.pad(waveform, (0, missing))
    return Audio(waveform, audio.sample_rate)


def latents_in(seconds: float) -> int:
    """Whole audio latents in a duration."""
    return int(seconds * AUDIO_LATENTS_PER_SECOND + 1e-6)


def rising(count: int) -> Tensor:
    """Strengths between 0 and 1, (count, 1), equally spaced, the ends not among them."""
    return (torch.arange(1, count + 1, dtype=torch.float32) / (count + 1))[:, None]
