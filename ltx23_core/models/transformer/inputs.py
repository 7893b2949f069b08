"""What the transformer takes: streams, guidance passes and the tables that last a whole run."""
from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...ops.rope import Rope
from .masked import Rows
from .nag import NagContext


@dataclass(frozen=True)
class StreamInput:
    """One stream at one sigma.

    Attributes:
        latent: (B, N, channels) patchified tokens in the model's dtype.
        sigma: float32 (B,), the schedule's sigma; 0 for a frozen stream.
        timesteps: float32 (B, U) distinct values of sigma * mask, U = 1 where all tokens share one.
        index: int64 (N,), which of the U values each token has; None where U is 1 or N.
        enabled: False: the stream is not updated and still serves as keys and values.
    """

    latent: Tensor
    sigma: Tensor
    timesteps: Tensor
    index: Tensor | None = None
    enabled: bool = True

    @property
    def token_timesteps(self) -> Tensor:
        """float32 (B, N or 1, 1): the timestep of every token."""
        values = self.timesteps if self.index is None else self.timesteps[:, self.index]
        return values[..., None]


Hidden = tuple["Tensor | None", "Tensor | None"]
"""Hidden states of (video, audio), (B, N, width) each; None for a stream that nothing depends on any more."""


@dataclass(frozen=True)
class Span:
    """Some of the blocks of a forward, [first, last): it may be cut between two blocks and go on elsewhere.

    Attributes:
        first, last: blocks.
        states: before block ``first``, of each pass; passes whose states are one object share them. (): the beginning.
    """

    first: int
    last: int
    states: tuple[Hidden, ...] = ()


@dataclass(frozen=True)
class StreamTables:
    """What is constant over a run for one stream: rotary tables, and what its self attention sees (): everything."""

    rope: Rope
    cross_rope: Rope | None = None
    self_rows: tuple[Rows, ...] = ()


STREAMS = ("video", "audio")
STAGES = ("self", "text", "cross", "feed")
"""The parts of a block, in order. Passes stay together until a stage treats them differently."""


@dataclass(frozen=True)
class Perturbation:
    """Which attentions a pass skips (spec/02 §9). Block indices count from 0."""

    video_self: frozenset[int] = frozenset()
    audio_self: frozenset[int] = frozenset()
    cross: bool = False  # both cross-modal attentions, in every block

    def skipped(self, block: int) -> frozenset[str]:
        """Streams whose self attention is skipped in one block."""
        found = set()
        if block in self.video_self:
            found.add("video")
        if block in self.audio_self:
            found.add("audio")
        return frozenset(found)


@dataclass(frozen=True)
class Pass:
    """One guidance pass: prompt contexts and perturbation.

    Attributes:
        video_context: (B, S, video width), or None without a video stream.
        audio_context: (B, S, audio width), or None without an audio stream.
        text_bias: additive (B, 1, 1, S) over the text tokens, or None; the pipelines never mask.
        nag: normalized attention guidance of (video, audio), None where there is none.
        reads: streams whose velocity is asked for; what serves neither of them is not computed.
    """

    video_context: Tensor | None
    audio_context: Tensor | None
    perturbation: Perturbation = field(default_factory=Perturbation)
    text_bias: Tensor | None = None
    nag: tuple[NagContext | None, NagContext | None] = (None, None)
    reads: frozenset[str] = frozenset(STREAMS)

    def context(self, stream: str) -> Tensor | None:
        """The prompt context of a stream."""
        return self.video_context if stream == "video" else self.audio_context

    def nag_of(self, stream: str) -> NagContext | None:
        """Normalized attention guidance of a stream."""
        return self.nag[STREAMS.index(stream)]

    def key(self, block: int, stage: str) -> tuple[object, ...]:
        """Two passes with equal keys in every stage so far have equal hidden states (spec/08 §2)."""
        if stage == "self":
            return (self.perturbation.skipped(block),)
        if stage == "text":
            nags = (given and (given.nag, id(given.context)) for given in self.nag)
            return (id(self.video_context), id(self.audio_context), id(self.text_bias), *nags)
        return (self.perturbation.cross,) if stage == "cross" else ()

    def needs(self, ahead: bool) -> frozenset[str]:
        """Streams that its velocities still depend on. ``ahead``: a cross-modal attention is yet to come."""
        crosses = ahead and not self.perturbation.cross and self.reads
        return frozenset(STREAMS) if crosses else self.reads
