"""An interrupt that stops all ranks at the same place, so that none is left waiting in an exchange.

Ranks run the same program and come to the same places, at times one before the other. Whoever interrupts asks each
rank how far it is (`hold`: it goes no further) and then lets all go on to the place after the furthest (`release`).
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

APART = 1000  # between two places that are counted: room for the blocks of a forward


class Interrupted(Exception):
    """The run was ended by whoever started it."""


class Gate:
    """The places of one rank. One thread computes and comes to them; `hold` and `release` are another's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._place = 0
        self._held = False
        self._last: int | None = None
        self._apart = False

    def open(self, apart: bool = False) -> None:
        """A new call begins, counted from 0. ``apart``: no other rank takes part in it."""
        with self._changed:
            self._place, self._held, self._last, self._apart = 0, False, None, apart

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What runs inside may end anywhere: the other ranks hear of it."""
        before, self._apart = self._apart, True
        try:
            yield
        finally:
            self._apart = before

    def check(self) -> None:
        """Called often in work that each rank does for itself; ends it where that leaves nobody waiting.

        Raises:
            Interrupted: the call is to end.
        """
        with self._changed:
            self._wait()
            if self._apart and self._last is not None:
                raise Interrupted

    def reach(self, place: int) -> None:
        """Come to a place that all ranks, or all of a group, come to.

        Raises:
            Interrupted: here the call ends.
        """
        with self._changed:
            self._wait()
            if self._last is not None and place >= self._last:
                raise Interrupted
            self._place = max(self._place, place)

    def following(self) -> int:
        """Come to the next place of all ranks; its number."""
        place = (self._place // APART + 1) * APART
        self.reach(place)
        return place

    def _wait(self) -> None:
        while self._held:
            self._changed.wait()

    def hold(self) -> int:
        """The furthest place; the next one waits."""
        with self._changed:
            self._held = True
            return self._place

    def release(self, last: int) -> None:
        """Go on to a place, and end there."""
        with self._changed:
            self._held, self._last = False, last
            self._changed.notify_all()


def blocks_of(gate: Gate, start: int, counts: Sequence[int]) -> Callable[[], None]:
    """A check for one forward: the calls of one block are one place.

    Args:
        gate: of this rank.
        start: the place before the forward.
        counts: how many calls come in each block.
    """
    calls, block = 0, 0

    def check() -> None:
        nonlocal calls, block
        if calls == counts[block] and block + 1 < len(counts):
            calls, block = 0, block + 1
        calls += 1
        gate.reach(start + 1 + block)

    return check
