"""What torch's CUDA allocator holds beside what is alive: its rules, over a list of what was taken and given back."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ltx23_core.memory.pieces import LARGE, MIDDLE, PIECE

from .live_bytes import LiveBytes

ROUND = 512              # bytes: of every tensor
SMALL, SMALL_SEGMENT = 1 << 20, 2 << 20  # up to SMALL a tensor lies in a segment of SMALL_SEGMENT

Event = tuple[int, int]  # (number of a tensor, its bytes; 0: it goes)


class Traced(LiveBytes):
    """Counts, and remembers the order.

    Attributes:
        events: what came and went; those that are alive at its end go then.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: list[Event] = []
        self._numbers: dict[int, int] = {}
        self._count_of_all = 0

    @property
    def events(self) -> list[Event]:
        return self._events + [(number, 0) for number in self._numbers.values()]

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if size and key not in self._seen and key not in given:
            self._count_of_all += 1
            self._numbers[key] = self._count_of_all
            self._events.append((self._count_of_all, size))
        super()._count(storage, given)

    def _gone(self, key: int, size: int) -> None:
        if key in self._numbers:
            self._events.append((self._numbers.pop(key), 0))
        super()._gone(key, size)


@dataclass(eq=False)
class Block:
    """A stretch of a segment; ``before`` and ``after`` are its neighbours there."""

    segment: int
    at: int
    size: int
    small: bool
    free: bool = True
    before: Block | None = None
    after: Block | None = None


class Allocator:
    """Best fit, neighbours joined, segments kept; one stream, as `torch.cuda`'s native one without settings.

    Attributes:
        reserved, most: bytes of segments, now and at most.
        again: how often all that was free had to be given back, since ``limit`` was reached.

    Args:
        limit: bytes that segments may take; None: no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.reserved = self.most = self.again = 0
        self._limit = limit
        self._segments = 0
        self._free: list[Block] = []
        self._held: dict[int, Block] = {}

    def take(self, key: int, size: int) -> None:
        """A tensor comes.

        Raises:
            MemoryError: there is no room within the limit.
        """
        size = max(-(-size // ROUND) * ROUND, ROUND)
        small = size <= SMALL
        fits = [block for block in self._free if block.small == small and block.size >= size]
        block = min(fits, key=lambda each: (each.size, each.segment, each.at), default=None)
        if block is None:
            block = self._segment(size, small)
        else:
            self._free.remove(block)
        rest = block.size - size
        if rest >= ROUND if small else rest > SMALL:
            other = Block(block.segment, block.at + size, rest, small, before=block, after=block.after)
            if block.after is not None:
                block.after.before = other
            block.size, block.after = size, other
            self._free.append(other)
        block.free = False
        self._held[key] = block

    def give(self, key: int) -> None:
        """A tensor goes."""
        block = self._held.pop(key)
        block.free = True
        for other in (block.before, block.after):
            if other is not None and other.free:
                self._free.remove(other)
                first, second = (other, block) if other is block.before else (block, other)
                first.size, first.after = first.size + second.size, second.after
                if second.after is not None:
                    second.after.before = first
                block = first
        self._free.append(block)

    def empty(self) -> None:
        """Whole segments that are free go."""
        for block in [each for each in self._free if each.before is None and each.after is None]:
            self._free.remove(block)
            self.reserved -= block.size

    def run(self, events: Iterable[Event]) -> Allocator:
        """All of it, in order."""
        for key, size in events:
            if size:
                self.take(key, size)
            else:
                self.give(key)
        return self

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            whole = SMALL_SEGMENT
        elif size < LARGE:
            whole = MIDDLE
        else:
            whole = -(-size // PIECE) * PIECE
        if self._limit is not None and self.reserved + whole > self._limit:
            self.again += 1
            self.empty()
            if self.reserved + whole > self._limit:
                raise MemoryError(f"{size} bytes beside {self.reserved} of {self._limit}")
        self.reserved += whole
        self.most = max(self.most, self.reserved)
        self._segments += 1
        return Block(self._segments, 0, whole, small)
