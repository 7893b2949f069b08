"""What a component's tensors take on a device: all of them, each block, and a block on its way."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod

import torch

from ..config import Stack, row_pieces
from ..lora.plan import LoraPlan, ParameterLoras, factor_bytes
from ..memory.pieces import aligned, together
from ..memory.room import Need
from ..overlay.bytes.source import AnyRef, QuantRef
from ..overlay.packed.rows import can_stay
from ..overlay.packed.sizes import bytes_on_device, stays_quantised
from ..weights.reader import TORCH_DTYPES, read_parts

_NOTHING = ParameterLoras()


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
        """Names of each block's tensors, in the order in which they run; () where there are no blocks."""
        if self._stack is None:
            return ()
        if self._stack.rows:
            return self._rows()
        blocks: list[tuple[str, ...]] = []
        for path in self._stack.paths:
            prefix = path + "."
            found: dict[int, list[str]] = {}
            for name in self._refs:
                if name.startswith(prefix):
                    found.setdefault(int(name[len(prefix):].partition(".")[0]), []).append(name)
            for number in sorted(found):
                blocks.append(tuple(found[number]))
        return tuple(blocks)

    def _rows(self) -> tuple[tuple[str, ...], ...]:
        """The matrices that may stay in their files, each a block; () where one of them cannot."""
        for name in self._stack.rows:
            if name not in self._refs or not can_stay(self._refs[name]):
                return ()
        return tuple((name,) for name in self._stack.rows)

    def prefix(self, number: int) -> str:
        """What the names of a block's tensors begin with."""
        first = self.blocks[number][0]
        for path in self._stack.paths:
            if first.startswith(path + "."):
                return f"{path}.{first[len(path) + 1:].partition('.')[0]}."
        raise KeyError(first)

    @property
    def in_files(self) -> tuple[str, ...]:
        """Names of the weights that stay in their files when the component is streamed."""
        names = []
        if self.table is not None:
            names.append(self.table)
        if self._stack is not None and self._stack.rows:
            for [name] in self.blocks:
                names.append(name)
        return tuple(names)

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of tensors that lie in one piece of memory: each block, and what is beside the blocks but the table."""
        if not self.blocks or self._stack.rows:
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
            size = self._exact(names)
            rounding.append(together(size, len(names)) - size)
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
        if self._stack is not None and self._stack.rows:
            return self._need_of_rows(plan)
        blocks, slot = [], 0
        for names in self.blocks:
            blocks.append(self.bytes(names, plan))
            slot = max(slot, self._stored(names, plan))
        shared = self._stack is not None and self._stack.shared
        work = self._widest
        if shared:
            work = max(map(self._numbers, self.blocks), default=0)
        casts = max(map(self._casts, self.blocks), default=0)
        apart = 0
        if self.table is not None:
            apart = self._each[self.table]
        return Need(self._name, self.bytes(self._refs, plan), tuple(blocks), slot, work, work + casts, apart)

    def _need_of_rows(self, plan: LoraPlan) -> Need:
        """The same where matrices are used a piece of rows at a time; with LoRAs on them they are resident."""
        weights = self.bytes(self._refs, plan)
        if not plan.keys().isdisjoint(self._stack.rows):
            return Need(self._name, weights, work=self._widest)
        blocks, slot, stored = [], 0, 0
        for [name] in self.blocks:
            ref = self._refs[name]
            _, rows = row_pieces(ref.shape[0])[0]
            blocks.append(self.bytes((name,), plan))
            slot = max(slot, rows * prod(ref.shape[1:]) * self._dtype.itemsize)
            if name in self.quantised or self._casts((name,)):
                stored = max(stored, sum(part.size_bytes for part in read_parts(ref).values()) * rows // ref.shape[0])
        return Need(self._name, weights, tuple(blocks), slot, self._widest, stored)

    @property
    def _widest(self) -> int:
        """Of the largest quantised weight outside of tables as numbers: one is used at a time."""
        widest = 0
        for name in self.quantised:
            if self._stack is None or name != self._stack.table:
                widest = max(widest, self._numbers((name,)))
        return widest

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
            ref = self._refs[name]
            if name in self.quantised:
                is_made = isinstance(ref, QuantRef) and ref.origin is not None
            else:
                is_made = TORCH_DTYPES.get(ref.dtype) != self._dtype
            if is_made:
                total += self._each[name]
        return total

    def _stored(self, names: Iterable[str], plan: LoraPlan) -> int:
        """Of a block as it is streamed: as its file has it, LoRA factors included."""
        stored = []
        for name in names:
            stored += read_parts(self._refs[name]).values()
            loras = plan.get(name, _NOTHING)
            for part in (*loras.fused, *loras.at_use):
                stored += part.update.tensors.values()
        total = 0
        for ref in stored:
            total += aligned(ref.size_bytes)
        return total
