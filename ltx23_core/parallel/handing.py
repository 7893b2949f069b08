"""Two halves of the ranks with a pass that begins on one and ends on the other, so that both take equally long.

A pass is a row of blocks, and between two of them it is one tensor a stream: handing it over costs a fraction of a
block, and nothing else is exchanged between the halves. Four passes that share what they can are 159 blocks of 22B's
48; whole passes would part them into 68 and 91, the exchanges of a pass that is cut by tokens cost 5 to 10 %.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

ByBlock = Callable[[tuple[int, ...]], Sequence[float]]


@dataclass(frozen=True, order=True)
class Handing:
    """The first half begins with ``stays`` and ``moved`` together; the second one ends ``moved``, after ``others``.

    Attributes:
        seconds: estimate.
        stays, others: whole passes of the first and the second half.
        moved: the pass between.
        leaves: the first block that the second half computes of it.
        goes_on: the block before which the first half hands it over: when the second one is about to be free, since
            whoever hands over keeps part of its device busy until it is taken.
        layers: blocks of the model.
        parts: seconds of each piece: both together, the others, the first half before and after it hands over, the
            second half's end of the pass.
    """

    seconds: float
    stays: tuple[int, ...]
    others: tuple[int, ...]
    moved: int
    leaves: int
    goes_on: int
    layers: int
    parts: tuple[float, ...] = ()


def handings(members: Sequence[int], by_block: ByBlock, moving: float) -> Iterator[Handing]:
    """Every way there is.

    Args:
        members: two passes or more.
        by_block: seconds of each block that some passes take on one half.
        moving: seconds that the states are on their way.
    """
    for moved in members:
        rest = [number for number in members if number != moved]
        for count in range(1, len(rest) + 1):
            for stays in combinations(rest, count):
                others = tuple(number for number in rest if number not in stays)
                yield from _cuts(stays, others, moved, by_block, moving)


def _cuts(stays: tuple[int, ...], others: tuple[int, ...], moved: int, by_block: ByBlock,
          moving: float) -> Iterator[Handing]:
    """Every block before which the pass may be handed over."""
    together = _sums(by_block(tuple(sorted((*stays, moved)))))
    staying, alone = _sums(by_block(stays)), _sums(by_block((moved,)))
    free = _sums(by_block(others))[-1] if others else 0.0
    layers = len(staying) - 1
    for leaves in range(1, layers):
        goes_on, sent = leaves, together[leaves]
        while goes_on < layers and sent + staying[goes_on + 1] - staying[goes_on] <= free:
            sent += staying[goes_on + 1] - staying[goes_on]
            goes_on += 1
        parts = (together[leaves], free, staying[goes_on] - staying[leaves], staying[-1] - staying[goes_on],
                 moving + alone[-1] - alone[leaves])
        taken = max(parts[0] + parts[2] + parts[3], max(free, sent) + parts[4])
        yield Handing(taken, stays, others, moved, leaves, goes_on, layers, parts)


def _sums(seconds: Sequence[float]) -> list[float]:
    return list(accumulate(seconds, initial=0.0))
