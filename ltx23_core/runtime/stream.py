"""Blocks that come in when they are needed: from outside, by hooks round the blocks; the model is not changed.

Streamed blocks share two places on the device: one computes while the next one is on its way. A block leaves when the
next one is entered, not after its call: several guidance passes call it in turn, so each is brought in once a step.
"""
from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..memory.room import SLOTS
from ..quant.layers import NumbersRoom, QuantWeight, join_products
from .block_content import BlockContent
from .block_source import Arrival, BlockSource, Parts


class BlockStream:
    """What happens when a block of a module is entered.

    Args:
        root: the module, whose forward enters the blocks in order.
        blocks: all of them.
        contents: number -> what is streamed of a block; the others are resident.
        source: brings the bytes; closed with the stream.
        device: where the blocks run.
        hold: whether several passes use a block in turn, so that numbers of quantised weights are made once for all.
    """

    def __init__(self, root: nn.Module, blocks: Sequence[nn.Module], contents: Mapping[int, BlockContent],
                 source: BlockSource | None, device: torch.device, hold: bool) -> None:
        """Take the places' memory, and begin to fill them."""
        self._contents, self._source = dict(contents), source
        self._order = sorted(contents)
        self._quantised: list[list[QuantWeight]] = []  # of each block: those whose numbers are held
        for block in blocks:
            held = []
            if hold:
                parts = list(block.modules())
                held = [part for part in parts if isinstance(part, QuantWeight) and part.makes_numbers]
                join_products(parts)
            self._quantised.append(held)
        self._numbers = NumbersRoom(self._quantised, device)
        self._current: int | None = None
        largest = 0
        for content in contents.values():
            largest = max(largest, content.size)
        count = min(SLOTS, len(contents))
        memory = torch.empty(count * largest, dtype=torch.uint8, device=device)  # one piece: no holes
        self._places = [memory[i * largest:(i + 1) * largest] for i in range(count)]
        self._parts: dict[tuple[int, int], Parts] = {}  # (block, place) -> what is read where, made once
        self._holds: list[int | None] = [None] * len(self._places)  # number of the block in each place
        self._arrivals: list[Arrival | None] = [None] * len(self._places)
        self._handles: list[RemovableHandle] = []
        if contents or any(self._quantised):
            self._watch(root, blocks)
        self._fetch_ahead(0)

    def _watch(self, root: nn.Module, blocks: Sequence[nn.Module]) -> None:
        """Put hooks round the blocks; weakly, since the blocks would keep what keeps them."""
        me = weakref.ref(self)
        for number, block in enumerate(blocks):
            self._handles.append(block.register_forward_pre_hook(lambda *_, number=number: me().enter(number)))
        self._handles.append(root.register_forward_pre_hook(lambda *_: me()._numbers.open()))
        self._handles.append(root.register_forward_hook(lambda *_: me()._end(), always_call=True))

    @property
    def size_bytes(self) -> int:
        """Bytes of the places."""
        return sum(map(len, self._places))

    def enter(self, number: int) -> None:
        """A block is about to run: the one before it leaves, this one is there, and the next one is on its way.

        Raises:
            WeightsError, OverlayError: its bytes cannot be read.
        """
        if number == self._current:
            return
        self._leave()
        self._fetch_ahead(number)
        if number in self._contents:
            place = self._holds.index(number)
            arrival = self._arrivals[place]
            try:
                arrival.wait()
            except BaseException:
                self._holds[place] = None
                raise
            self._contents[number].bind(place, self._places[place])
        self._numbers.clear()
        for layer in self._quantised[number]:
            layer.hold(True, self._numbers)
        self._current = number

    def close(self) -> None:
        """Take the hooks away, wait for what is under way and give the memory back."""
        for handle in self._handles:
            handle.remove()
        self._leave()
        if self._source is not None:
            self._source.close()
        for content in self._contents.values():
            content.close()
        self._places, self._arrivals, self._contents, self._handles, self._parts = [], [], {}, [], {}

    def _leave(self) -> None:
        if self._current is None:
            return
        self._forget_numbers()
        if self._current in self._contents:
            self._contents[self._current].unbind()
        self._current = None

    def _forget_numbers(self) -> None:
        """Drop what was made of the current block's quantised weights."""
        if self._current is None:
            return
        for layer in self._quantised[self._current]:
            layer.hold(False)

    def _end(self) -> None:
        """A forward is over."""
        self._forget_numbers()
        self._numbers.close()

    def _fetch_ahead(self, number: int) -> None:
        """Ask for the blocks that are needed next, from this one on, as many as there are places."""
        wanted = self._next(number)
        for block in wanted:
            if block in self._holds:
                continue
            place = next(i for i, held in enumerate(self._holds) if held not in wanted)
            self._holds[place] = None  # should it fail, the block is asked for again at the next attempt
            if (block, place) not in self._parts:
                self._parts[block, place] = self._contents[block].parts(self._places[place])
            self._arrivals[place] = self._source.fetch(self._parts[block, place])
            self._holds[place] = block

    def _next(self, number: int) -> list[int]:
        """The streamed blocks from a block on, round the end, as many as there are places."""
        at = bisect_left(self._order, number)
        return (self._order[at:] + self._order[:at])[:len(self._places)]
