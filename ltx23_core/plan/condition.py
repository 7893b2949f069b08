"""What a condition is: something that holds part of the streams, or adds to them, before a stage begins."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..geometry import VideoGrid
    from ..media.audio import Audio

# In this order conditions are applied; equals in the user's. So an image may replace a frame of a source clip, and
# references, whose attention mask must know every other token, come last (spec/07 §8).
SOURCE, REPLACE, KEYFRAME, REFERENCE = range(4)
# What a condition does to a stream. At most one of those that fill or freeze; beside one that freezes no other.
ADDS, FILLS, FREEZES = "adds to", "fills", "freezes"
MOST_LEVELS = 16  # `sampling.state.MASK_LEVELS`
Strengths = frozenset[float]
WHOLLY: Strengths = frozenset((1.0,))
FREE: Strengths = frozenset()


class Encoders(Protocol):
    """What conditions ask of the pipeline; each call makes sure that the encoder is on the device."""

    dtype: torch.dtype  # of latents

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
        shrink: the recipe's first stage runs at width and height divided by this.
    """

    width: int
    height: int
    frames: int
    fps: float
    video: bool = True
    audio: bool = True
    shrink: int = 1

    @property
    def seconds(self) -> float:
        """Duration of the picture."""
        return self.frames / self.fps


@dataclass(frozen=True)
class StageSetting:
    """The stage whose streams are conditioned.

    Attributes:
        number: of the stage, from 1.
        grid: latent grid of the video at this stage's size.
        audio_length: audio latents.
        fps: frames per second.
        encoders: of the pipeline.
        fresh: the streams begin from nothing; False: their initial latents are those of an earlier stage.
        cache: encoded sources of this run, by what they were made from; see `once`.
        check: called often in work that takes long; may raise to interrupt. None: nobody asks.
    """

    number: int
    grid: VideoGrid
    audio_length: int
    fps: float
    encoders: Encoders
    fresh: bool = True
    cache: dict[Hashable, tuple[object, Tensor]] = field(default_factory=dict)
    check: Callable[[], None] | None = None

    @property
    def width(self) -> int:
        """Pixels of the video at this stage."""
        return self.grid.width * 32

    @property
    def height(self) -> int:
        """Pixels of the video at this stage."""
        return self.grid.height * 32

    def once(self, source: object, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once a run for an object and a key: several seeds, stages of one size and
        conditions on the same source share it."""
        found = self.cache.get((id(source), key))
        if found is None:  # the source is kept beside the result, so that its id stays its own
            found = self.cache[id(source), key] = (source, make())
        return found[1]


@dataclass(frozen=True)
class Added:
    """What one condition puts into a stage; from shapes alone, for what the stage will take.

    Attributes:
        times: float32 (n, 2), [start, end) in seconds of video tokens that stand beside the clip's; None: none.
        sound: audio tokens beside the clip's.
        held: of (video, audio): the strengths above 0 with which it holds tokens.
        soft: its mask has any values.
        masked: not all tokens see each other.
    """

    times: Tensor | None = None
    sound: int = 0
    held: tuple[Strengths, Strengths] = (FREE, FREE)
    soft: bool = False
    masked: bool = False

    def beside(self, other: Added) -> Added:
        """Both together."""
        import torch

        times = self.times
        if other.times is not None:
            times = torch.cat((times, other.times))
        held = self.held[0] | other.held[0], self.held[1] | other.held[1]
        return Added(times, self.sound + other.sound, held, self.soft or other.soft, self.masked or other.masked)


class Planned(Protocol):
    """What a plan knows of a condition; `conditioning.base.Condition` adds what a run does with it.

    `together.check_conditions` sorts them, by `order` and then as the user gave them. One that continues a clip also
    has a ``direction``, "forward" or "backward", and ``frames_in(fps)``: how many frames of the result it holds. One
    that brings its own sound for the file has ``waveform(clip)``. One that changes how many tokens a call has, or holds
    some of them, has ``added(clip, grid, number)``: what it puts into a stage (`Added`).
    """

    name: str   # for people
    order: int  # SOURCE, REPLACE, KEYFRAME or REFERENCE

    @property
    def roles(self) -> Mapping[str, str]:
        """"video" and "audio", where the condition needs that stream -> what it does to it (ADDS, FILLS, FREEZES)."""

    def check(self, clip: Clip) -> None:
        """Raise an error of the family if the clip cannot have this condition; reads and loads nothing."""
