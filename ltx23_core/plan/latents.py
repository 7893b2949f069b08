"""What a run gives, and what a later stage goes on from."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..media.audio import Audio


@dataclass(frozen=True)
class Latents:
    """Result of sampling.

    Attributes:
        video: (B, C, F', H', W'), or None where only sound was made.
        audio: (B, C, T, bins), or None where only the picture was made.
        fps: frames per second.
        frames: pixel frames of the decoded video.
        seed: of the first sample; sample b has seed + b.
        drawn: token shapes of the noise that was drawn so far, in order: a later stage with the same seed continues
            this stream of noise, as the official pipelines do.
        waveform: the sound to put into the file in place of the decoded one, as long as the clip (audio to video).
    """

    video: Tensor | None
    audio: Tensor | None
    fps: float
    frames: int
    seed: int | None = None
    drawn: tuple[tuple[int, ...], ...] = ()
    waveform: Audio | None = None

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.video if self.audio is None else self.audio)

    def sample(self, index: int) -> Latents:
        """One sample of the batch; a batch of one serves every index."""
        pick = slice(index, index + 1) if self.batch > 1 else slice(None)
        parts = (None if part is None else part[pick] for part in (self.video, self.audio))
        return Latents(*parts, self.fps, self.frames, None if self.seed is None else self.seed + index, self.drawn,
                       self.waveform)
