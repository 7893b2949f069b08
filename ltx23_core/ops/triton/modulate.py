"""Triton form of `ops.modulate`: a program per token."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from ..modulate import Modulation, Update

MOST_PARTS = 2


@triton.jit
def _add_norm_modulate(x, value, gate, shift0, scale0, shift1, scale1, index, out_x, out0, out1, tokens, width, eps,
                       x_batch, x_row, value_batch, value_row, gate_batch, gate_step, row_batch, row_step,
                       UPDATE: tl.constexpr, PARTS: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
                       EVEN: tl.constexpr):
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
        tl.store(out0 + target, (normed * s + b).to(out0.dtype.element_ty), mask=inside)
        if PARTS > 1:
            s = tl.load(scale1 + row, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(shift1 + row, mask=inside, other=0.0).to(tl.float32)
            tl.store(out1 + target, (normed * s + b).to(out1.dtype.element_ty), mask=inside)


def _steps(row: Tensor, batch: int) -> tuple[int, int]:
    """Strides over samples and timesteps; what there is one of has stride 0."""
    return (row.stride(0) if row.shape[0] == batch > 1 else 0), (row.stride(1) if row.shape[1] > 1 else 0)


def add_norm_modulate(x: Tensor, update: Update | None, wanted: Sequence[Modulation], index: Tensor | None,
                      eps: float) -> tuple[Tensor, list[Tensor]]:
    """See `ops.modulate.add_norm_modulate`."""
    assert len(wanted) <= MOST_PARTS
    if update is None and not wanted:
        return x, []
    x = _rows_contiguous(x)
    batch, tokens, width = x.shape
    value, gate = (x, x) if update is None else (_rows_contiguous(update.value), _rows_contiguous(update.gate))
    rows = [_rows_contiguous(row) for part in wanted for row in (part.shift, part.scale)]
    if len({_steps(row, batch) for row in rows}) > 1:
        rows = [row.contiguous() for row in rows]
    outs = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in wanted]
    out_x = x if update is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(width)
    spare = [x] * (2 * MOST_PARTS - len(rows)), [x] * (MOST_PARTS - len(outs))  # any pointer, never read or written
    _add_norm_modulate[(tokens, batch)](
        x, value, gate, *rows, *spare[0], x if index is None else index, out_x, *outs, *spare[1], tokens, width, eps,
        x.stride(0), x.stride(1), value.stride(0), value.stride(1), *_steps(gate, batch),
        *(_steps(rows[0], batch) if rows else (0, 0)), UPDATE=update is not None, PARTS=len(wanted),
        INDEX=index is not None, BLOCK=block, EVEN=block == width, num_warps=8 if width > 2048 else 4)
    return out_x, outs


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
