"""Triton form of `ops.norms`: a program per token, which reads the tables once for queries and keys."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm_rope(x0, x1, weight0, weight1, cos, sin, out0, out1, tokens, x0_batch, x1_batch, x0_row, x1_row,
               table_batch, width, eps, PARTS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
               ROPE: tl.constexpr):
    row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    first = head * (2 * HALF) + column  # a head's first half; the second is HALF behind it
    target = (batch * tokens + row) * width + first
    if ROPE:
        place = batch * table_batch + row * (HEADS * HALF) + head * HALF + column
        c, s = tl.load(cos + place).to(tl.float32), tl.load(sin + place).to(tl.float32)
    source = x0 + batch * x0_batch + row * x0_row + first
    a, b = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
    scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / width + eps)
    a = a * scale * tl.load(weight0 + first).to(tl.float32)
    b = b * scale * tl.load(weight0 + first + HALF).to(tl.float32)
    if ROPE:
        a, b = a * c - b * s, b * c + a * s
    tl.store(out0 + target, a.to(out0.dtype.element_ty))
    tl.store(out0 + target + HALF, b.to(out0.dtype.element_ty))
    if PARTS > 1:  # written out: a helper's name would carry the pack's path into the compiler
        source = x1 + batch * x1_batch + row * x1_row + first
        a, b = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
        scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / width + eps)
        a = a * scale * tl.load(weight1 + first).to(tl.float32)
        b = b * scale * tl.load(weight1 + first + HALF).to(tl.float32)
        if ROPE:
            a, b = a * c - b * s, b * c + a * s
        tl.store(out1 + target, a.to(out1.dtype.element_ty))
        tl.store(out1 + target + HALF, b.to(out1.dtype.element_ty))


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def fits(x: Tensor, heads: int) -> bool:
    """Whether the kernel can take a width: powers of two per row, as in every 2.3 model."""
    return x.shape[-1] % (2 * heads) == 0 and _power_of_two(heads) and _power_of_two(x.shape[-1] // heads // 2)


def norm_rope(parts: Sequence[tuple[Tensor, Tensor]], rope: tuple[Tensor, Tensor] | None, heads: int,
              eps: float) -> list[Tensor]:
    """See `ops.norms`; one or two parts (x, weight) of equal shapes in one launch."""
    xs = [x if x.stride(-1) == 1 else x.contiguous() for x, _ in parts]
    batch, tokens, width = xs[0].shape
    outs = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in xs]
    cos, sin = (parts[0][1],) * 2 if rope is None else (table.contiguous() for table in rope)  # any pointer, never read
    table_batch = cos.stride(0) if rope is not None and len(cos) > 1 else 0
    both = (0, len(parts) - 1)
    _norm_rope[(tokens, batch)](
        *(xs[i] for i in both), *(parts[i][1] for i in both), cos, sin, *(outs[i] for i in both), tokens,
        *(xs[i].stride(0) for i in both), *(xs[i].stride(1) for i in both), table_batch, width, eps, PARTS=len(parts),
        HEADS=heads, HALF=width // heads // 2, ROPE=rope is not None, num_warps=8 if width > 2048 else 4)
    return outs
