"""Who does what in a forward: passes to groups of ranks, by the cost of every way there is (and `handing`)."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from ..config import TransformerConfig
from ..models.transformer.inputs import Pass
from .cost import Forward, Rates, works_by_block
from .cut import LEAST
from .handing import Handing, handings

BETTER = 0.995  # of the time: below it more groups or phases are worth their trouble


@dataclass(frozen=True)
class Part:
    """Some ranks and their passes, by number.

    Attributes:
        ranks, passes: who and what.
        seconds: estimate.
        blocks: [first, last) of the model; None: all of them.
        given_by: as many ranks, which hand over the states of the passes before the first block; (): an earlier part
            of the same ranks had them.
    """

    ranks: tuple[int, ...]
    passes: tuple[int, ...]
    seconds: float = 0.0
    blocks: tuple[int, int] | None = None
    given_by: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Numbers from 1, as people count passes and blocks."""
        who = f"rank {self.ranks[0]}"
        if len(self.ranks) > 1:
            who = f"ranks {self.ranks[0]}-{self.ranks[-1]}"
        what = f"passes {', '.join(str(number + 1) for number in self.passes)}"
        if self.blocks is None:
            return f"{who}: {what}"
        return f"{who}: {what} in blocks {self.blocks[0] + 1}-{self.blocks[1]}"


@dataclass(frozen=True)
class Arrangement:
    """What `Arranger` decides. Ranks that are in no part of a phase wait.

    Attributes:
        phases: one after the other; in each, who does what.
        seconds: estimate of a forward.
        alone: estimate of the same on one rank.
    """

    phases: tuple[tuple[Part, ...], ...]
    seconds: float = 0.0
    alone: float = 0.0

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of all phases."""
        return tuple(part for phase in self.phases for part in phase)

    def __str__(self) -> str:
        """One line for the log."""
        phases = ["; ".join(map(str, phase)) for phase in self.phases]
        return (f"{', then '.join(phases)}: {self.seconds:.3f} s a forward, {self.alone:.3f} s on one device "
                f"({self.alone / max(self.seconds, 1e-12):.2f}x)")


def partitions(count: int, most: int) -> Iterator[list[list[int]]]:
    """All ways to put so many things into 1 to ``most`` groups; groups in the order of their first things."""
    def extended(done: list[list[int]], number: int) -> Iterator[list[list[int]]]:
        if number == count:
            yield [list(group) for group in done]
            return
        for place in range(min(len(done) + 1, most)):
            more = [list(group) for group in done]
            if place == len(more):
                more.append([])
            more[place].append(number)
            yield from extended(more, number + 1)

    yield from extended([], 0)


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to give 1 or more of so many ranks to each of some groups."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in compositions(total - first, parts - 1):
            yield first, *rest


class Arranger:
    """Decides arrangements, and remembers them.

    Args:
        config: of the transformer.
        ranks: how many there are.
        rates: of devices and links.
        bytes_per_value: of activations.
        groups: most groups; 1: tokens alone are shared out. None: as many as pay.
        share: False: no tokens are shared out, only passes.
        phases: most phases. Two, since passes that are whole on a rank cost no exchange, and what does not come out
            even is shared out by tokens before or after them.
        handing: whether a pass may begin on some ranks and end on others.
    """

    def __init__(self, config: TransformerConfig, ranks: int, rates: Rates, bytes_per_value: int = 2, *,
                 groups: int | None = None, share: bool = True, phases: int = 2, handing: bool = True) -> None:
        self._config, self._ranks, self._rates, self._bytes = config, ranks, rates, bytes_per_value
        self._most, self._share, self._phases = groups or ranks, share, phases
        self._handing = handing and self._most > 1 and phases > 1 and ranks % 2 == 0 and (share or ranks == 2)
        self._known: dict[tuple[object, ...], Arrangement] = {}

    def __call__(self, passes: Sequence[Pass], tokens: tuple[int, int], text: int) -> Arrangement:
        """The best arrangement for some passes over (video, audio) tokens and prompts of so many."""
        key = tokens, text, _outline(passes)
        if key not in self._known:
            self._known[key] = self._decided(passes, tokens, text)
        return self._known[key]

    def _decided(self, passes: Sequence[Pass], tokens: tuple[int, int], text: int) -> Arrangement:
        @cache
        def by_block(members: tuple[int, ...], ranks: int) -> list[float]:
            return self._seconds([passes[number] for number in members], tokens, text, ranks)

        def seconds(members: tuple[int, ...], ranks: int) -> float:
            return sum(by_block(members, ranks))

        @cache
        def phase(members: tuple[int, ...]) -> tuple[tuple[Part, ...], float]:
            return self._phase(members, tokens, seconds)

        everything = tuple(range(len(passes)))
        found: list[Arrangement] = []
        for members in partitions(len(passes), self._phases):
            made = [phase(tuple(some)) for some in members]
            total = sum(taken for _, taken in made)
            found.append(Arrangement(tuple(parts for parts, _ in made), total, seconds(everything, 1)))
        if self._handing and len(passes) > 1:
            half = self._ranks // 2
            moving = self._moving(tokens, half)
            best = min(handings(everything, lambda members: by_block(members, half), moving))
            total = best.seconds + self._together(((0,), everything), (half, half), tokens)
            found.append(Arrangement(_phases(best, half), total, seconds(everything, 1)))
        return _simplest(found, lambda each: len(each.phases))

    def _moving(self, tokens: tuple[int, int], ranks: int) -> float:
        """Seconds that a pass's states are on their way from one half of the ranks to the other."""
        forward = self._forward(tokens, 0, ranks)
        values = 0.0
        for name in ("video", "audio"):
            values += forward.own(name) * forward.width(name)
        return self._rates.latency + values * self._bytes / self._rates.link

    def _phase(self, members: tuple[int, ...], tokens: tuple[int, int],
               seconds: Callable[[tuple[int, ...], int], float]) -> tuple[tuple[Part, ...], float]:
        """The best way for some passes to be computed by all ranks at once, and what it takes."""
        found: list[Arrangement] = []
        for places in partitions(len(members), min(self._most, self._ranks)):
            groups = [tuple(members[place] for place in group) for group in places]
            for sizes in self._sizes(len(groups)):
                times = [seconds(group, size) for group, size in zip(groups, sizes, strict=True)]
                total = max(times) + self._together(groups, sizes, tokens)
                found.append(Arrangement((_parts(groups, sizes, times),), total))
        best = _simplest(found, lambda each: len(each.parts))
        return best.phases[0], best.seconds

    def _sizes(self, groups: int) -> Iterator[tuple[int, ...]]:
        """Ranks of each group. Without sharing of tokens each has one, and what is left waits."""
        if self._share:
            return compositions(self._ranks, groups)
        return iter([(1,) * groups])

    def _forward(self, tokens: tuple[int, int], text: int, ranks: int) -> Forward:
        cut = [name for name, count in zip(("video", "audio"), tokens, strict=True)
               if count and (count == max(tokens) or count >= LEAST)]
        return Forward(self._config, *tokens, text, ranks, tuple(cut), self._bytes)

    def _seconds(self, passes: Sequence[Pass], tokens: tuple[int, int], text: int, ranks: int) -> list[float]:
        """Of each block."""
        works = works_by_block(self._forward(tokens, text, ranks), passes)
        return [work.seconds(self._rates) for work in works]

    def _together(self, groups: Sequence[Sequence[int]], sizes: Sequence[int], tokens: tuple[int, int]) -> float:
        """Bringing the results together: small, two exchanges a group."""
        if len(groups) == 1 and sizes[0] == 1:
            return 0.0
        channels = self._config.video.out_channels * tokens[0] + self._config.audio.out_channels * tokens[1]
        count = sum(map(len, groups))
        return 2 * len(groups) * self._rates.latency + channels * count * self._bytes / self._rates.link


def _simplest(found: Sequence[Arrangement], count: Callable[[Arrangement], int]) -> Arrangement:
    """The fastest; of those that are about as fast, the one with fewest groups or phases."""
    limit = min(each.seconds for each in found) / BETTER
    return min((each for each in found if each.seconds <= limit), key=lambda each: (count(each), each.seconds))


def _parts(groups: Sequence[Sequence[int]], sizes: Sequence[int], times: Sequence[float]) -> tuple[Part, ...]:
    """Ranks in order: those of the first group first."""
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    parts = []
    for group, (start, end), taken in zip(groups, pairwise(edges), times, strict=True):
        parts.append(Part(tuple(range(start, end)), tuple(group), taken))
    return tuple(parts)


def _phases(found: Handing, half: int) -> tuple[tuple[Part, ...], ...]:
    """What the first and the second half of the ranks do."""
    first, second = tuple(range(half)), tuple(range(half, 2 * half))
    leaves, goes_on, layers = found.leaves, found.goes_on, found.layers
    begins, others, before, after, ends = found.parts
    both = [Part(first, tuple(sorted((*found.stays, found.moved))), begins, (0, leaves))]
    if found.others:
        both.append(Part(second, found.others, others))
    phases = [tuple(both)]
    if goes_on > leaves:
        phases.append((Part(first, found.stays, before, (leaves, goes_on)),))
    last = [Part(first, found.stays, after, (goes_on, layers))] if goes_on < layers else []
    last.append(Part(second, (found.moved,), ends, (leaves, layers), given_by=first))
    return (*phases, tuple(last))


def _outline(passes: Sequence[Pass]) -> tuple[object, ...]:
    """What of passes their cost depends on: which prompts are the same, not what they are."""
    seen: dict[int, int] = {}
    found = []
    for given in passes:
        prompts = []
        for context in (given.video_context, given.audio_context):
            prompts.append(seen.setdefault(id(context), len(seen)))
        found.append((given.perturbation, given.reads, given.nag != (None, None), *prompts))
    return tuple(found)
