"""A worker's residency, which tells the process that started it how far long work has come: a host shows a bar."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..runtime.residency import LocalResidency

SECONDS_BETWEEN = 0.25  # of two messages


class CountingResidency(LocalResidency):
    """`LocalResidency` that counts.

    Args:
        device, memory, check: as of `LocalResidency`.
        tell: told (done, about how many there are) at the first and then some times a second.
    """

    def __init__(self, device: torch.device, *, memory: str | float, check: Callable[[], None],
                 tell: Callable[[int, int], None]) -> None:
        super().__init__(device, memory=memory, check=check)
        self._tell, self._counts = tell, []

    @contextmanager
    def counting(self, checks: int) -> Iterator[None]:
        """See `Residency`; what is inside may count for itself."""
        self._counts.append(_Count(max(checks, 1)))
        try:
            yield
        finally:
            self._counts.pop()

    def check(self) -> None:
        """See `Residency`: one more is done."""
        super().check()
        if self._counts and self._counts[-1].one_more():
            count = self._counts[-1]
            self._tell(min(count.done, count.total), count.total)


class _Count:
    """How much of something is done."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self._told = 0, total, float("-inf")

    def one_more(self) -> bool:
        """Count; whether it is time to tell."""
        self.done += 1
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN:
            return False
        self._told = now
        return True
