"""Blocks that no rank has room for: each rank holds some of them, and hands them to all when they are needed.

In the place of reading them from files in every step: links between devices are several times as fast as the bus.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..memory.room import Need, placed_so
from ..runtime.block_source import Arrival, BlockSource, Parts, block_source
from ..runtime.component import Component
from ..runtime.policy import Streamed
from ..weights.pages import Pages
from .world import Group


def sharded_blocks(need: Need, room: float, ranks: int) -> int | None:
    """How many blocks are to be shared out so that the rest is resident on every rank; None: not even all of them fit.

    Args:
        need: of the component.
        room: bytes for its weights, on the rank that has least.
        ranks: that hold them.
    """
    for count in range(1, len(need.blocks) + 1):
        held = -(-count // ranks) * need.slot
        if placed_so(need, count).peak + held <= room:
            return count
    return None


class _Handed:
    """A block on its way from the rank that holds it."""

    def __init__(self, arrived: Callable[[], Tensor]) -> None:
        self._arrived = arrived

    def wait(self) -> None:
        """See `Arrival`."""
        self._arrived()


class ShardedSource:
    """Every rank asks for the same blocks in the same order; one has each of them on its device.

    Args:
        group: the ranks, on links of their own: blocks travel beside the exchanges of attentions.
        files: where a rank reads what it is to hold, once.
    """

    def __init__(self, group: Group, files: BlockSource) -> None:
        self._group, self._files = group, files
        self._owners: dict[object, int] = {}
        self._held: dict[object, Tensor] = {}
        self.reads = 0

    @property
    def size_bytes(self) -> int:
        """Of the blocks that are held here."""
        return sum(map(len, self._held.values()))

    def fetch(self, parts: Parts) -> Arrival:
        """See `BlockSource`. What it has been asked for first is the first rank's, and so on."""
        key = parts[0][0]
        owner = self._owners.setdefault(key, len(self._owners) % self._group.size)
        place = _span(parts)
        if owner == self._group.index:
            if key not in self._held:
                self.reads += 1
                self._files.fetch(parts).wait()
                self._held[key] = place.clone()
            else:
                place.copy_(self._held[key])
        return _Handed(self._group.hand_out(place, owner))

    def close(self) -> None:
        """See `BlockSource`."""
        self._files.close()
        self._held.clear()


def _span(parts: Parts) -> Tensor:
    """The bytes of one place from the first part to the last: all lie in one piece of memory."""
    first = parts[0][1]
    starts = [target.storage_offset() for _, target in parts]
    ends = [target.storage_offset() + target.numel() for _, target in parts]
    whole = torch.empty(0, dtype=torch.uint8, device=first.device)
    return whole.set_(first.untyped_storage(), min(starts), (max(ends) - min(starts),))


class Sharded(Streamed):
    """Some blocks are resident, the others are held by the ranks in turn.

    Args:
        streamed: how many.
        group: the ranks.
    """

    def __init__(self, streamed: int, group: Group) -> None:
        super().__init__(streamed)
        self._group = group
        self._shards: ShardedSource | None = None

    def source(self, device: torch.device, pages: Pages | None) -> BlockSource:
        """See `Streamed`."""
        self._shards = ShardedSource(self._group, block_source(device, pages))
        return self._shards

    def bytes(self, component: Component) -> int:
        """See `Policy`."""
        if self._shards is None:
            return super().bytes(component)
        return super().bytes(component) + self._shards.size_bytes
