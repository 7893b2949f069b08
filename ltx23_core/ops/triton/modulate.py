"""Triton form of `ops.modulate`: a program per token."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import LARGEST
from .launch import Launcher

if TYPE_CHECKING:
    from ..modulate import Modulation, Update

MOST_PARTS = 2


@triton.jit
def _add_norm_modulate(x, value, gate, shift0, scale0, shift1, scale1, index, out_x, out0, out1, steps0, steps1,
                       tokens, width, eps, x_batch, x_row, value_batch, value_row, gate_batch, gate_step, row_batch,
                       row_step, UPDATE: tl.constexpr, PARTS: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
                       EVEN: tl.constexpr, LARGEST0: tl.constexpr, LARGEST1: tl.constexpr):
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < (BLOCK if EVEN else width)
    step = token
    if INDEX:
        step = tl.load(index + token).to(tl.int64)
    h = tl.load(x + batch * x_batch + token * x_row + column, mask=inside, other=0.0).to(tl.float32)
    target = (batch * tokens + token) * width + column
    if UPDATE:
        v = tl.load(value + batch * value_batch + token * value_row + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(gate + batch * gate_batch + step * gate_step + column, mask=inside, other=0.0).to(tl.float32)
        kept = (h + v * g).to(out_x.dtype.element_ty)
        tl.store(out_x + target, kept, mask=inside)
        h = kept.to(tl.float32)
    if PARTS > 0:
        normed = h * (1.0 / tl.sqrt(tl.sum(h * h) / width + eps))
        row = batch * row_batch + step * row_step + column
        s = tl.load(scale0 + row, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(shift0 + row, mask=inside, other=0.0).to(tl.float32)
        made = normed * s + b
        if LARGEST0 > 0.0:  # as codes; 12582912 = 1.5 * 2^23 rounds to the nearest whole number
            size = tl.max(tl.abs(made)) / LARGEST0
            size = tl.where(size == 0.0, 1.0, size)
            tl.store(steps0 + batch * tokens + token, size)
            made = made / size
            if LARGEST0 == 127.0:
                made = (made + 12582912.0) - 12582912.0
        tl.store(out0 + target, made.to(out0.dtype.element_ty), mask=inside)
        if PARTS > 1:  # written out: a helper's name would carry the pack's path into the compiler
            s = tl.load(scale1 + row, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(shift1 + row, mask=inside, other=0.0).to(tl.float32)
            made = normed * s + b
            if LARGEST1 > 0.0:
                size = tl.max(tl.abs(made)) / LARGEST1
                size = tl.where(size == 0.0, 1.0, size)
                tl.store(steps1 + batch * tokens + token, size)
                made = made / size
                if LARGEST1 == 127.0:
                    made = (made + 12582912.0) - 12582912.0
            tl.store(out1 + target, made.to(out1.dtype.element_ty), mask=inside)


_ADD_NORM_MODULATE = Launcher(_add_norm_modulate)
Made = tuple[Tensor, "Tensor | None"]


def _steps(row: Tensor, batch: int) -> tuple[int, int]:
    """Strides over samples and timesteps; what there is one of has stride 0."""
    return (row.stride(0) if row.shape[0] == batch > 1 else 0), (row.stride(1) if row.shape[1] > 1 else 0)


def add_norm_modulate(x: Tensor, update: Update | None, wanted: Sequence[Modulation], index: Tensor | None,
                      eps: float) -> tuple[Tensor, list[Made]]:
    """See `ops.modulate.add_norm_modulate`; of each part the rows, and their steps where they are codes."""
    assert len(wanted) <= MOST_PARTS
    if update is None and not wanted:
        return x, []
    x = _rows_contiguous(x)
    batch, tokens, width = x.shape
    value, gate = (x, x) if update is None else (_rows_contiguous(update.value), _rows_contiguous(update.gate))
    rows: list[Tensor] = []
    made: list[Made] = []
    largest = [0.0] * MOST_PARTS
    for number, part in enumerate(wanted):
        rows += (_rows_contiguous(part.shift), _rows_contiguous(part.scale))
        made.append(_room(x, part.codes))
        largest[number] = LARGEST.get(part.codes, 0.0)
    if len({_steps(row, batch) for row in rows}) > 1:
        rows = [row.contiguous() for row in rows]
    out_x = x if update is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(width)
    spare = [(x, None)] * (MOST_PARTS - len(made))  # any pointer, never read or written
    outs = [out for out, _ in (*made, *spare)]
    sizes = [x if size is None else size for _, size in (*made, *spare)]
    _ADD_NORM_MODULATE(
        (tokens, batch),
        (x, value, gate, *rows, *[x] * (2 * MOST_PARTS - len(rows)), x if index is None else index, out_x, *outs,
         *sizes),
        (tokens, width, eps, x.stride(0), x.stride(1), value.stride(0), value.stride(1), *_steps(gate, batch),
         *(_steps(rows[0], batch) if rows else (0, 0))),
        (update is not None, len(wanted), index is not None, block, block == width, *largest),
        warps=8 if width > 2048 else 4)
    return out_x, made


def _room(x: Tensor, codes: torch.dtype | None) -> Made:
    """Memory for what is made of x: rows, and steps of codes."""
    if codes is None:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device), None
    return (torch.empty(x.shape, dtype=codes, device=x.device),
            torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device))


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
