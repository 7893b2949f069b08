"""What a forward of some passes takes on some ranks: operations, bytes and waits, by the formulas of spec/08 §4.

Exact in what is shared: passes are followed block by block and stage by stage as the model runs them, so a pass that
forks late, reads one stream or does not cross costs what it costs.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..config import TransformerConfig
from ..models.transformer.inputs import STAGES, STREAMS, Pass

NORMS = 10  # widths of a token that a stage reads and writes beside products and attention
# Fitted to two H200 and four sizes, 3,520 to 32,640 tokens: sharing by tokens cost 21 ps for each byte of one tensor of
# a self attention, 7 of them in bringing tensors into the order of the exchange and back. What is left is more than
# the link needs: an exchange beside an attention takes processors from it.
ORDERING = 20   # widths of a token, read and written
EXPOSED = 1.5   # of what the link alone would take
RING = 24       # widths of a token that joining one more part of an attention reads and writes, in float32
RING_EXPOSED = 0.3  # keys and values travel beside an attention on the part before


@dataclass(frozen=True)
class Rates:
    """What a device and its links do.

    Attributes:
        product, attention: operations a second.
        memory: bytes a second, read and written.
        link: bytes a second that a rank sends while it receives as many.
        latency: seconds of the smallest exchange.
        stage: seconds that one stage of one stream takes at least, however few its tokens.
    """

    product: float
    attention: float
    memory: float
    link: float
    latency: float
    stage: float


@dataclass(frozen=True)
class Work:
    """What one rank does.

    Attributes:
        product, attention: operations.
        memory: bytes that pass through the device's memory beside products and attention.
        sent: bytes that a rank sends and cannot hide behind arithmetic.
        waits: exchanges that it waits for.
        stages: stages that it runs.
    """

    product: float = 0.0
    attention: float = 0.0
    memory: float = 0.0
    sent: float = 0.0
    waits: int = 0
    stages: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def seconds(self, rates: Rates) -> float:
        """What it takes at some rates."""
        computing = self.product / rates.product + self.attention / rates.attention + self.memory / rates.memory
        return max(computing, 0.0) + self.stages * rates.stage + self.sent / rates.link + self.waits * rates.latency


@dataclass(frozen=True)
class Forward:
    """The sizes of a forward.

    Attributes:
        config: of the transformer.
        video, audio: tokens of each stream; 0: it is not there.
        text: tokens of a prompt.
        ranks: that share the tokens.
        cut: streams that are cut; the others are whole on every rank.
        bytes_per_value: 2 for bfloat16.
    """

    config: TransformerConfig
    video: int
    audio: int
    text: int
    ranks: int = 1
    cut: tuple[str, ...] = ("video",)
    bytes_per_value: int = 2

    def tokens(self, stream: str) -> int:
        """Of a whole stream."""
        return {"video": self.video, "audio": self.audio}[stream]

    def own(self, stream: str) -> float:
        """Of a stream that one rank has."""
        if stream in self.cut:
            return -(-self.tokens(stream) // self.ranks)
        return self.tokens(stream)

    def width(self, stream: str) -> int:
        """Channels."""
        return {"video": self.config.video.width, "audio": self.config.audio.width}[stream]

    def heads(self, stream: str) -> int:
        """Of its self attention."""
        return {"video": self.config.video.heads, "audio": self.config.audio.heads}[stream]

    def stage(self, name: str, stream: str, skipped: bool) -> Work:
        """One stage of one stream in one block, without the prompt's keys and values."""
        own, width = self.own(stream), self.width(stream)
        passing = Work(memory=NORMS * own * width * self.bytes_per_value, stages=1)
        if name == "self":
            return passing + self._self(stream, skipped)
        if name == "text":
            return passing + Work(product=4 * own * width ** 2, attention=4 * own * self.text * width)
        if name == "feed":
            return passing + Work(product=16 * own * width ** 2)
        return passing + self._cross(stream)

    def prompt(self, stream: str) -> Work:
        """Keys and values of a prompt in one block; every rank makes them."""
        return Work(product=4 * self.text * self.width(stream) ** 2)

    def _self(self, stream: str, skipped: bool) -> Work:
        own, width = self.own(stream), self.width(stream)
        if skipped:
            return Work(product=4 * own * width ** 2)
        work = Work(product=8 * own * width ** 2, attention=4 * own * self.tokens(stream) * width)
        if stream in self.cut and self.ranks > 1:
            work += self._exchange(own * width * self.bytes_per_value, self.heads(stream))
        return work

    def _exchange(self, size: float, heads: int) -> Work:
        """Of a self attention, each of whose tensors has so many bytes on a rank (`attention.exchanged`)."""
        others = self.ranks - 1
        if heads % self.ranks == 0:
            return Work(memory=ORDERING * size, sent=EXPOSED * 4 * size * others / self.ranks, waits=2)
        return Work(memory=RING * size * self.ranks, sent=RING_EXPOSED * 2 * size * others, waits=self.ranks)

    def _cross(self, stream: str) -> Work:
        """Of the audio's width in both directions."""
        other = STREAMS[1 - STREAMS.index(stream)]
        inner, narrow = self.width("audio"), self.width("audio")
        own, keys = self.own(stream), self.own(other)
        product = 4 * own * self.width(stream) * inner + 4 * keys * self.width(other) * narrow
        seen = self.tokens(other)
        if other in self.cut and stream not in self.cut:
            seen = keys
        work = Work(product=product, attention=4 * own * seen * inner)
        if other in self.cut and self.ranks > 1:
            work += Work(waits=1)
        return work


def forward_work(forward: Forward, passes: Sequence[Pass]) -> Work:
    """What a rank does in a forward of some passes, which share what they can."""
    total = Work()
    for work in works_by_block(forward, passes):
        total += work
    return total


def works_by_block(forward: Forward, passes: Sequence[Pass]) -> list[Work]:
    """`forward_work`, block by block."""
    branches = [list(range(len(passes)))]
    layers, found = forward.config.layers, []
    alike: dict[tuple[object, ...], tuple[Work, list[list[int]]]] = {}
    for number in range(layers):
        skips = [given.perturbation.skipped(number) for given in passes]
        key = *map(tuple, branches), *skips, number == layers - 1
        if key not in alike:
            alike[key] = _block_work(forward, passes, number, branches)
        work, branches = alike[key]
        found.append(work)
    return found


def _block_work(forward: Forward, passes: Sequence[Pass], number: int,
                branches: list[list[int]]) -> tuple[Work, list[list[int]]]:
    """Of one block, and the branches behind it."""
    total, layers = Work(), forward.config.layers
    present = [name for name in STREAMS if forward.tokens(name)]
    prompts: set[tuple[str, int]] = set()
    for stage in STAGES:
        ahead = number < layers - 1 or STAGES.index(stage) < STAGES.index("cross")
        forked: list[list[int]] = []
        for branch in branches:
            forked += _groups(branch, passes, number, stage)
        for members in forked:
            wanted = frozenset().union(*(passes[member].needs(ahead) for member in members))
            streams = [name for name in present if name in wanted]
            total += _stage_work(forward, stage, streams, passes[members[0]], number, prompts)
        branches = forked
    return total, branches


def branches_by_block(passes: Sequence[Pass], layers: int) -> list[int]:
    """How many branches the passes have at the end of each block."""
    counts: list[int] = []
    branches = [list(range(len(passes)))]
    for number in range(layers):
        for stage in STAGES:
            forked: list[list[int]] = []
            for branch in branches:
                forked += _groups(branch, passes, number, stage)
            branches = forked
        counts.append(len(branches))
    return counts


def _stage_work(forward: Forward, stage: str, streams: Sequence[str], given: Pass, number: int,
                prompts: set[tuple[str, int]]) -> Work:
    """One stage of a branch; `prompts` are those whose keys and values this block has already."""
    if stage == "cross" and (given.perturbation.cross or not (forward.video and forward.audio)):
        return Work()
    total = Work()
    for name in streams:
        total += forward.stage(stage, name, skipped=name in given.perturbation.skipped(number))
        key = name, id(given.context(name))
        if stage == "text" and key not in prompts:
            prompts.add(key)
            total += forward.prompt(name)
    return total


def _groups(members: Sequence[int], passes: Sequence[Pass], number: int, stage: str) -> list[list[int]]:
    """Members of a branch, by how a stage treats them (`models.transformer.model`)."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for member in members:
        groups.setdefault(passes[member].key(number, stage), []).append(member)
    return list(groups.values())
