"""What a component's tensors take on a device: all of them, each block, and a block on its way."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod

import torch

from ..config import Stack
from ..lora.plan import LoraPlan, ParameterLoras, factor_bytes
from ..memory.room import Need
from ..overlay.bytes.source import AnyRef, TensorRef
from ..overlay.packed.sizes import bytes_on_device, kept_parts, stays_quantised
from ..weights.reader import TORCH_DTYPES
from .file_embedding import can_stay

PIECE, LARGE = 2 << 20, 10 << 20  # bytes: of what the CUDA allocator gives from LARGE on, whole pieces
ALIGNMENT = 256  # bytes: every tensor begins where the allocator would let it begin, so that products choose alike
_NOTHING = ParameterLoras()


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def in_pieces(size: int) -> int:
    """What a piece of memory takes on a CUDA device: from 10 MiB on a multiple of 2 MiB."""
    if size < LARGE:
        return size
    return -(-size // PIECE) * PIECE


def stored_parts(ref: AnyRef) -> list[TensorRef]:
    """What is read of a tensor when it is streamed."""
    if isinstance(ref, TensorRef):
        return [ref]
    return list(kept_parts(ref).values())


class Sizes:
    """Bytes of one component's tensors.

    Args:
        name: of the component, for messages.
        refs: its tensors.
        dtype: of the numbers.
        stack: its blocks, if it has some.
    """

    def __init__(self, name: str, refs: Mapping[str, AnyRef], dtype: torch.dtype, stack: Stack | None) -> None:
        """Compute nothing yet."""
        self._name, self._refs, self._dtype, self._stack = name, refs, dtype, stack

    @cached_property
    def quantised(self) -> frozenset[str]:
        """The tensors that stay quantised on the device."""
        return frozenset(name for name, ref in self._refs.items() if stays_quantised(name, ref))

    @cached_property
    def _each(self) -> dict[str, int]:
        return {name: bytes_on_device(name, ref, self._dtype.itemsize) for name, ref in self._refs.items()}

    @cached_property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Names of each block's tensors; () where there are no blocks."""
        if self._stack is None:
            return ()
        prefix = self._stack.path + "."
        found: dict[int, list[str]] = {}
        for name in self._refs:
            if name.startswith(prefix):
                found.setdefault(int(name[len(prefix):].partition(".")[0]), []).append(name)
        return tuple(tuple(found[number]) for number in sorted(found))

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of tensors that lie in one piece of memory: each block, and what is beside the blocks but the table."""
        if not self.blocks:
            return ()
        beside = dict.fromkeys(self._refs)
        beside.pop(self.table, None)
        for names in self.blocks:
            for name in names:
                beside.pop(name, None)
        return (*self.blocks, tuple(beside))

    @cached_property
    def _rounding(self) -> tuple[int, ...]:
        """Of each block: bytes that its piece of memory takes beyond its tensors."""
        rounding = []
        for names in self.blocks:
            size, more = self._exact(names), 0
            if size >= LARGE:
                more = in_pieces(size + len(names) * ALIGNMENT) - size
            rounding.append(more)
        return tuple(rounding)

    def _exact(self, names: Iterable[str]) -> int:
        return sum(map(self._each.__getitem__, names))

    @property
    def table(self) -> str | None:
        """The parameter that stays in its file when blocks are streamed."""
        if self._stack is None:
            return None
        table = self._stack.table
        if table in self._refs and can_stay(self._refs[table]):
            return table
        return None

    def bytes(self, names: Iterable[str], plan: LoraPlan) -> int:
        """Of some tensors, with the factors of LoRAs that act at use, and what whole blocks are rounded up by."""
        chosen = set(names)
        total = self._exact(chosen)
        for block, more in zip(self.blocks, self._rounding, strict=True):
            if more and chosen.issuperset(block):
                total += more
        factors = {name: parts for name, parts in plan.items() if name in chosen}
        return total + factor_bytes(factors, self._dtype.itemsize)

    def need(self, plan: LoraPlan) -> Need:
        """Of the whole component with these LoRAs, for `memory.room.place`."""
        blocks, slot = [], 0
        for names in self.blocks:
            blocks.append(self.bytes(names, plan))
            slot = max(slot, self._stored(names, plan))
        shared = self._stack is not None and self._stack.shared
        work = 0
        if shared:
            work = max(map(self._numbers, self.blocks), default=0)
        casts = max(map(self._casts, self.blocks), default=0)
        apart = 0
        if self.table is not None:
            apart = self._each[self.table]
        return Need(self._name, self.bytes(self._refs, plan), tuple(blocks), slot, work, work + casts, apart)

    def _numbers(self, names: Iterable[str]) -> int:
        """Of a block's quantised weights as numbers."""
        total = 0
        for name in self.quantised.intersection(names):
            total += prod(self._refs[name].shape) * self._dtype.itemsize
        return total

    def _casts(self, names: Iterable[str]) -> int:
        """Of what is made of a streamed block's tensors that their file has in another form."""
        total = 0
        for name in names:
            if name in self.quantised or TORCH_DTYPES.get(self._refs[name].dtype) == self._dtype:
                continue
            total += self._each[name]
        return total

    def _stored(self, names: Iterable[str], plan: LoraPlan) -> int:
        """Of a block as it is streamed: as its file has it, LoRA factors included."""
        stored = []
        for name in names:
            stored += stored_parts(self._refs[name])
            loras = plan.get(name, _NOTHING)
            for part in (*loras.fused, *loras.at_use):
                stored += part.update.tensors.values()
        total = 0
        for ref in stored:
            total += aligned(ref.size_bytes)
        return total
