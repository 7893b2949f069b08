"""Modulation by name: which rows of a block's tables belong to which of its parts (spec/02 §3)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...ops.modulate import Modulation

MOST_AT_ONCE = 8  # timesteps whose rows are made for all blocks in one go: 28 MB of the 22B model in bfloat16


class Tabled(Protocol):
    """One stream's part of a block."""

    tables: tuple[Tensor, Tensor, Tensor]


class Block(Protocol):
    """What of a `block.TransformerBlock` is needed here."""

    def parts(self, name: str) -> Tabled:
        """The part of "video" or "audio"."""


class Part(NamedTuple):
    """Places in a table; the order is the file's."""

    shift: int
    scale: int
    gate: int | None = None


SELF, FEED, TEXT = Part(0, 1, 2), Part(3, 4, 5), Part(6, 7, 8)
PROMPT = Part(0, 1)
# In the cross-modal tables scale comes before shift, and the gate has a timestep of its own (spec/02 §3).
TO_VIDEO, TO_AUDIO = Part(shift=1, scale=0), Part(shift=3, scale=2)
CROSS_ROWS = 4

_SCALES = {"own": (SELF, FEED, TEXT), "prompt": (PROMPT,), "cross": (TO_VIDEO, TO_AUDIO)}


class Coefficients(NamedTuple):
    """What the AdaLN heads make of one stream's timesteps; the same for all blocks and passes at one sigma.

    Attributes:
        own: (B, U, 9 W), of U distinct timesteps.
        prompt: (B, 1, 2 W).
        cross: (B, U, 4 W), gate: (B, 1, W); None with one stream.
    """

    own: Tensor
    prompt: Tensor
    cross: Tensor | None = None
    gate: Tensor | None = None


class Rows:
    """Rows of one table in one block, (B, U, rows, W), with the 1 of 1 + scale in them."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __getitem__(self, part: Part) -> Modulation:
        """Shift, scale and gate of a part, (B, U, W) each."""
        shift, scale = self._values[:, :, part.shift], self._values[:, :, part.scale]
        if part.gate is None:
            return Modulation(shift, scale)
        return Modulation(shift, scale, self._values[:, :, part.gate])


class BlockRows(NamedTuple):
    """All rows of one stream in one block; ``gate`` (B, 1, W) is that of its cross-modal attention."""

    own: Rows
    prompt: Rows
    cross: Rows | None
    gate: Tensor | None


def _values(tables: Tensor, coefficients: Tensor, kind: str) -> Tensor:
    """Tables (blocks, rows, W) plus coefficients (B, U, rows W), scales plus 1: (blocks, B, U, rows, W)."""
    rows = coefficients.unflatten(-1, tables.shape[1:])
    values = tables.to(rows.dtype)[:, None, None] + rows
    for part in _SCALES[kind]:
        values[..., part.scale, :] += 1
    return values


def make_rows(tables: Sequence[Tensor], given: Coefficients) -> list[BlockRows]:
    """Rows of some blocks.

    Args:
        tables: own (blocks, 9, W), prompt (blocks, 2, W) and cross-modal (blocks, 5, W).
        given: coefficients of the stream.
    """
    own, prompt, cross = tables
    own_values, prompts = _values(own, given.own, "own"), _values(prompt, given.prompt, "prompt")
    made: list[BlockRows] = []
    if given.cross is None or given.gate is None:
        for i in range(len(own)):
            made.append(BlockRows(Rows(own_values[i]), Rows(prompts[i]), None, None))
        return made
    crossing = _values(cross[:, :CROSS_ROWS], given.cross, "cross")
    gates = cross[:, CROSS_ROWS].to(given.gate.dtype)[:, None, None] + given.gate
    for i in range(len(own)):
        made.append(BlockRows(Rows(own_values[i]), Rows(prompts[i]), Rows(crossing[i]), gates[i]))
    return made


def _all_on(device: torch.device, tables: Sequence[Sequence[Tensor]]) -> bool:
    for own in tables:
        for table in own:
            if table.device != device:
                return False
    return True


class StepRows:
    """Rows of one stream in every block at one sigma: made in one go where that is possible, else block by block.

    Args:
        blocks: of the model.
        name: "video" or "audio".
        given: coefficients of the stream.
    """

    def __init__(self, blocks: Sequence[Block], name: str, given: Coefficients) -> None:
        self._blocks, self._name, self._given = blocks, name, given
        self._made: list[BlockRows] | None = None
        self._last: tuple[int, BlockRows] | None = None
        own = [block.parts(name).tables for block in blocks]
        # A streamed block's tables are on the device only while the block is.
        if given.own.shape[1] <= MOST_AT_ONCE and _all_on(given.own.device, own):
            self._made = make_rows([torch.stack(kind) for kind in zip(*own, strict=True)], given)

    def __getitem__(self, number: int) -> BlockRows:
        """Rows in one block, whose weights are on the device."""
        if self._made is not None:
            return self._made[number]
        if self._last is None or self._last[0] != number:
            tables = [table[None] for table in self._blocks[number].parts(self._name).tables]
            self._last = number, make_rows(tables, self._given)[0]
        return self._last[1]
