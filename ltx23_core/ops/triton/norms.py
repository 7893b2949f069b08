"""Triton form of `ops.norms`: a program per token, which reads the tables once for queries and keys. In place."""
from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..rope import Rope, RopeRows
from .launch import Launcher


@triton.jit
def _norm_rope(x0, x1, weight0, weight1, cos, sin, index, tokens, x0_batch, x1_batch, x0_row, x1_row, table_batch,
               index_batch, width, eps, padding, PARTS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
               ROPE: tl.constexpr, AXES: tl.constexpr):
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    first = head * (2 * HALF) + column  # a head's first half; the second is HALF behind it
    if ROPE:
        place = head * HALF + column
        row = batch * table_batch + token
        if AXES > 0:  # a row for each position on an axis; columns belong to the axes in turn
            axis, own = (place - padding + AXES) % AXES, index + batch * index_batch + token
            row = tl.load(own).to(tl.int64)
            for number in tl.static_range(1, AXES):
                row = tl.where(axis == number, tl.load(own + number * tokens).to(tl.int64), row)
        place += row * (HEADS * HALF)
        c, s = tl.load(cos + place).to(tl.float32), tl.load(sin + place).to(tl.float32)
    source = x0 + batch * x0_batch + token * x0_row + first
    a, b = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
    scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / width + eps)
    a = a * scale * tl.load(weight0 + first).to(tl.float32)
    b = b * scale * tl.load(weight0 + first + HALF).to(tl.float32)
    if ROPE:
        a, b = a * c - b * s, b * c + a * s
    tl.store(source, a.to(x0.dtype.element_ty))
    tl.store(source + HALF, b.to(x0.dtype.element_ty))
    if PARTS > 1:  # written out: a helper's name would carry the pack's path into the compiler
        source = x1 + batch * x1_batch + token * x1_row + first
        a, b = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
        scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / width + eps)
        a = a * scale * tl.load(weight1 + first).to(tl.float32)
        b = b * scale * tl.load(weight1 + first + HALF).to(tl.float32)
        if ROPE:
            a, b = a * c - b * s, b * c + a * s
        tl.store(source, a.to(x1.dtype.element_ty))
        tl.store(source + HALF, b.to(x1.dtype.element_ty))


_NORM_ROPE = Launcher(_norm_rope)


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def fits(x: Tensor, heads: int) -> bool:
    """Whether the kernel can take a width: powers of two per row, as in every 2.3 model."""
    return x.shape[-1] % (2 * heads) == 0 and _power_of_two(heads) and _power_of_two(x.shape[-1] // heads // 2)


def norm_rope(parts: Sequence[tuple[Tensor, Tensor]], rope: Rope | None, heads: int, eps: float) -> list[Tensor]:
    """See `ops.norms`; one or two parts (x, weight) of equal shapes in one launch, written over x."""
    xs = [x if x.stride(-1) == 1 else x.contiguous() for x, _ in parts]
    batch, tokens, width = xs[0].shape
    weight = parts[0][1]
    cos, sin, index = weight, weight, weight  # any pointer, never read
    axes = padding = table_batch = index_batch = 0
    if isinstance(rope, RopeRows):
        cos, sin, index = rope
        axes, padding = index.shape[1], rope.padding
        index_batch = index.stride(0) if len(index) > 1 else 0
    elif rope is not None:
        cos, sin = (table.contiguous() for table in rope)
        table_batch = tokens if len(cos) > 1 else 0
    both = (0, len(parts) - 1)
    _NORM_ROPE(
        (tokens, batch), (*(xs[i] for i in both), *(parts[i][1] for i in both), cos, sin, index),
        (tokens, *(xs[i].stride(0) for i in both), *(xs[i].stride(1) for i in both), table_batch, index_batch, width,
         eps, padding),
        (len(parts), heads, width // heads // 2, rope is not None, axes), warps=8 if width > 2048 else 4)
    return xs
