"""Triton form of `ops.norms`: a program per token and part (queries, keys)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

Part = tuple[Tensor, Tensor, "tuple[Tensor, Tensor] | None"]


@triton.jit
def _norm_rope(x0, x1, weight0, weight1, cos0, cos1, sin0, sin1, out0, out1, tokens0, tokens1,
               x0_batch, x1_batch, x0_row, x1_row, table0_batch, table1_batch, width, eps,
               HEADS: tl.constexpr, HALF: tl.constexpr, ROPE: tl.constexpr):
    part, row, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    x, weight, cos, sin, out = x0, weight0, cos0, sin0, out0
    tokens, x_batch, x_row, table_batch = tokens0, x0_batch, x0_row, table0_batch
    if part == 1:
        x, weight, cos, sin, out = x1, weight1, cos1, sin1, out1
        tokens, x_batch, x_row, table_batch = tokens1, x1_batch, x1_row, table1_batch
    if row < tokens:
        head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
        first = head * (2 * HALF) + column  # a head's first half; the second is HALF behind it
        source = x + batch * x_batch + row.to(tl.int64) * x_row
        a = tl.load(source + first).to(tl.float32)
        b = tl.load(source + first + HALF).to(tl.float32)
        mean = (tl.sum(a * a) + tl.sum(b * b)) / width
        scale = 1.0 / tl.sqrt(mean + eps)
        a = a * scale * tl.load(weight + first).to(tl.float32)
        b = b * scale * tl.load(weight + first + HALF).to(tl.float32)
        if ROPE:
            place = batch * table_batch + row.to(tl.int64) * (HEADS * HALF) + head * HALF + column
            c, s = tl.load(cos + place).to(tl.float32), tl.load(sin + place).to(tl.float32)
            a, b = a * c - b * s, b * c + a * s
        target = out + (batch * tokens + row) * width
        tl.store(target + first, a.to(out.dtype.element_ty))
        tl.store(target + first + HALF, b.to(out.dtype.element_ty))


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def fits(x: Tensor, heads: int) -> bool:
    """Whether the kernel can take a width: powers of two per row, as in every 2.3 model."""
    return x.shape[-1] % (2 * heads) == 0 and _power_of_two(heads) and _power_of_two(x.shape[-1] // heads // 2)


def norm_rope(parts: Sequence[Part], heads: int, eps: float) -> list[Tensor]:
    """See `ops.norms.norm_rope`; one or two parts in one launch, both with tables or both without."""
    xs = [x if x.stride(-1) == 1 else x.contiguous() for x, _, _ in parts]
    batch, _, width = xs[0].shape
    outs = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in xs]
    weights = [weight for _, weight, _ in parts]
    ropes = [rope or (weight, weight) for _, weight, rope in parts]  # without tables: any pointer, never read
    tables = [[table.contiguous() for table in rope] for rope in ropes]
    steps = [table[0].stride(0) if table[0].ndim == 3 and table[0].shape[0] > 1 else 0 for table in tables]
    at = (0, len(parts) - 1)
    grid = (len(parts), max(x.shape[1] for x in xs), batch)
    _norm_rope[grid](
        *(xs[i] for i in at), *(weights[i] for i in at), *(tables[i][0] for i in at), *(tables[i][1] for i in at),
        *(outs[i] for i in at), *(xs[i].shape[1] for i in at), *(xs[i].stride(0) for i in at),
        *(xs[i].stride(1) for i in at), *(steps[i] for i in at), width, eps,
        HEADS=heads, HALF=width // heads // 2, ROPE=parts[0][2] is not None, num_warps=8 if width > 2048 else 4)
    return outs
