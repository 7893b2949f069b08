"""Triton form of `weights.dequant` for rows that are rotated in groups (int8, int4, w4a8), and for AWQ: bits equal.

Codes times the rotation's ±1 are whole numbers below 2^24, so the product's sums are exact in any order; the factor
1/√size is a power of two.
"""
from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numbers import e4m3, whole

ROWS, PART, BLOCK = 64, 64, 2048
SIZES = (16, 64, 256)  # of the groups: what products of tiles take


@triton.jit
def _code(weight, row, place, stored, inside, FOUR: tl.constexpr):
    """Signed codes of some columns of some rows, int32."""
    if FOUR:
        byte = tl.load(weight + row * stored + place // 2, mask=inside, other=0).to(tl.int32)
        return (((byte >> (4 * (place % 2))) & 15) ^ 8) - 8
    return tl.load(weight + row * stored + place, mask=inside, other=0).to(tl.int32)


@triton.jit
def _unrotated(weight, scale, signs, out, rows, columns, stored, scales, factor, SIZE: tl.constexpr,
               FOUR: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = tl.program_id(1) * SIZE
    inside = row < rows
    code = _code(weight, row, begin + tl.arange(0, SIZE)[None, :], stored, inside, FOUR).to(tl.float16)
    step = tl.load(scale + row * scales, mask=inside, other=0).to(tl.float32)
    for part in tl.static_range(SIZE // PART):
        at = part * PART + tl.arange(0, PART)[None, :]
        turn = tl.load(signs + tl.arange(0, SIZE)[:, None] * SIZE + at)
        value = tl.dot(code, turn) * factor * step
        tl.store(out + row * columns + begin + at, value.to(out.dtype.element_ty), mask=inside)


def unrotated(weight: Tensor, scale: Tensor, signs: Tensor, four: bool, out: Tensor) -> Tensor:
    """Fill ``out`` (rows, columns), contiguous.

    Args:
        weight: int8 (rows, columns), or with ``four`` bytes of two codes.
        scale: one, or one for each row.
        signs: of the rotation, ±1 in float16, (size, size), a size of `SIZES`.
    """
    (rows, columns), size = out.shape, len(signs)
    _unrotated[triton.cdiv(rows, ROWS), columns // size](
        weight, scale, signs, out, rows, columns, weight.shape[1], int(scale.numel() > 1), size ** -0.5, SIZE=size,
        FOUR=four, ROWS=ROWS, PART=min(PART, size), num_warps=4)
    return out


@triton.jit
def _w4a8(weight, relative, channel, book, signs, out, rows, columns, group, factor, E4M3: tl.constexpr,
          BOOK: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = tl.program_id(1) * SIZE
    inside = row < rows
    place = begin + tl.arange(0, SIZE)[None, :]
    byte = tl.load(weight + row * (columns // 2) + place // 2, mask=inside, other=0).to(tl.int32)
    code = (byte >> (4 * (place % 2))) & 15
    if BOOK:  # noqa: SIM108  known when it is compiled
        value = tl.load(book + code).to(tl.float32)
    else:
        value = (code - 8).to(tl.float32)
    step = tl.load(channel + row, mask=inside, other=0).to(tl.float32)
    at = row * (columns // group) + place // group
    if E4M3:
        scale = e4m3(tl.load(relative + at, mask=inside, other=0).to(tl.int32))
    else:
        scale = tl.load(relative + at, mask=inside, other=0).to(tl.float32)
    scale = tl.where(step == 0, 0.0, scale)  # 0/0 of the quantiser
    turned = tl.minimum(tl.maximum(value * scale, -1e6), 1e6)
    turned = tl.minimum(tl.maximum(whole(turned), -127.0), 127.0).to(tl.float16)
    for part in tl.static_range(SIZE // PART):
        column = part * PART + tl.arange(0, PART)[None, :]
        turn = tl.load(signs + tl.arange(0, SIZE)[:, None] * SIZE + column)
        number = tl.dot(turned, turn) * factor * step
        tl.store(out + row * columns + begin + column, number.to(out.dtype.element_ty), mask=inside)


def w4a8(parts: Mapping[str, Tensor], group: int, signs: Tensor, out: Tensor) -> Tensor:
    """Fill ``out`` (rows, columns), contiguous: codes times relative scales to int8, unrotated, times the row's scale.

    Args:
        parts: as `weights.dequant` has them, without a correction.
        group: numbers that share a relative scale.
        signs: as in `unrotated`.
    """
    (rows, columns), size = out.shape, len(signs)
    relative, book = parts["weight_s_rel"], parts.get("weight_codebook")
    is_e4m3 = relative.dtype == torch.float8_e4m3fn
    if is_e4m3:
        relative = relative.view(torch.uint8)
    has_book = book is not None
    _w4a8[triton.cdiv(rows, ROWS), columns // size](
        parts["weight"], relative, parts["weight_s_channel"], book if has_book else relative, signs, out, rows, columns,
        group, size ** -0.5, E4M3=is_e4m3, BOOK=has_book, SIZE=size, ROWS=ROWS, PART=min(PART, size), num_warps=4,
        enable_fp_fusion=False)
    return out


@triton.jit
def _awq(weight, scale, zero, out, rows, columns, group, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < columns
    byte = tl.load(weight + row * (columns // 2) + place // 2, mask=inside, other=0).to(tl.int32)
    code = ((byte >> (4 * (place % 2))) & 15) - 8
    at = (place // group) * rows + row
    value = code.to(tl.float32) * tl.load(scale + at, mask=inside, other=0).to(tl.float32)
    value = value + tl.load(zero + at, mask=inside, other=0).to(tl.float32)
    tl.store(out + row * columns + place, value.to(out.dtype.element_ty), mask=inside)


def awq(parts: Mapping[str, Tensor], group: int, out: Tensor) -> Tensor:
    """Fill ``out`` (rows, columns), contiguous: (code - 8) scale + zero, scale and zero (columns / group, rows)."""
    rows, columns = out.shape
    weight = parts["weight"].view(torch.uint8)
    _awq[rows, triton.cdiv(columns, BLOCK)](weight, parts["weight_scale"], parts["weight_zero"], out, rows, columns,
                                            group, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False)
    return out
