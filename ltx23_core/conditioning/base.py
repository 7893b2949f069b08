"""What a condition is: something that holds part of the streams, or adds to them, before a stage begins."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..geometry import VideoGrid
    from ..media.audio import Audio
    from ..sampling.latents import StatePair


class Encoders(Protocol):
    """What conditions ask of the pipeline; each call makes sure that the encoder is on the device."""

    def encode_video(self, pixels: Tensor) -> Tensor:
        """(1, 3, F, H, W) in [-1, 1] -> normalised latent (1, C, F', H / 32, W / 32) on the device."""

    def encode_audio(self, audio: Audio) -> Tensor:
        """Sound -> latent (B, C, T, bins) on the device."""


@dataclass(frozen=True)
class Clip:
    """The whole clip that is made, in pixels; what a condition can be checked against before anything is loaded.

    Attributes:
        width, height: pixels of the result.
        frames: pixel frames, 8 k + 1.
        fps: frames per second.
        video, audio: whether the stream is made at all.
    """

    width: int
    height: int
    frames: int
    fps: float
    video: bool = True
    audio: bool = True


@dataclass(frozen=True)
class StageSetting:
    """The stage whose streams are conditioned.

    Attributes:
        number: of the stage, from 1.
        grid: latent grid of the video at this stage's size.
        audio_length: audio latents.
        fps: frames per second.
        encoders: of the pipeline.
    """

    number: int
    grid: VideoGrid
    audio_length: int
    fps: float
    encoders: Encoders


class Condition(Protocol):
    """One condition. They are applied in the order of `order`, then in the user's."""

    order: int  # 0: replaces tokens of the streams; 1: appends keyframes; 2: appends references

    def check(self, clip: Clip) -> None:
        """Raise an error of the family if the clip cannot have this condition; reads and loads nothing."""

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """The (video, audio) states with this condition, before noise. None is a stream that is not made."""
