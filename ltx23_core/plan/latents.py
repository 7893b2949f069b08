"""What a run is given in words, encoded, and what it gives: latents, which a later stage goes on from."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..media.audio import Audio


@dataclass(frozen=True)
class PromptContext:
    """What the transformer sees of a prompt: (B, 1024, width) a stream; None where the stream is absent."""

    video: Tensor | None
    audio: Tensor | None


@dataclass(frozen=True)
class PromptText:
    """A prompt and a negative prompt (None: the default list), not yet encoded."""

    prompt: str
    negative_prompt: str | None = None


@dataclass(frozen=True)
class PromptPair:
    """A prompt and a negative prompt, encoded."""

    positive: PromptContext
    negative: PromptContext
    prompt: str
    negative_prompt: str


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
        if self.audio is None:
            return len(self.video)
        return len(self.audio)

    def sample(self, index: int) -> Latents:
        """One sample of the batch; a batch of one serves every index."""
        if self.batch == 1 and self.seed is None:
            return self
        pick = slice(index, index + 1) if self.batch > 1 else slice(None)
        return replace(
            self,
            video=self.video if self.video is None else self.video[pick],
            audio=self.audio if self.audio is None else self.audio[pick],
            seed=self.seed if self.seed is None else self.seed + index,
        )
