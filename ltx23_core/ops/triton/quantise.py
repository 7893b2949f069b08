"""Triton form of `weights.quantise`, where torch's takes longer than reading: a pass or two, bits equal.

No product is fused with a sum (``enable_fp_fusion=False``): that would round otherwise than single operations.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numbers import e4m3_code, whole

BLOCK = 2048
GROUPS = 16  # of 32 numbers, done by one program


@triton.jit
def _rowwise(weight, factor, out, columns, FP8: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < columns
    x = tl.load(weight + row * columns + place, mask=inside, other=0).to(tl.float32) * tl.load(factor + row)
    if FP8:
        code = e4m3_code(tl.where(tl.abs(x) > 448.0, tl.where(x < 0, -448.0, 448.0), x))
    else:
        code = tl.minimum(tl.maximum(whole(x), -127.0), 127.0).to(tl.int32) & 255
    tl.store(out + row * columns + place, code.to(tl.uint8), mask=inside)


def rowwise(weight: Tensor, factor: Tensor, codes: Tensor) -> None:
    """Fill codes (rows, columns) in fp8 e4m3 or int8 with weight times factor (rows, 1)."""
    rows, columns = weight.shape
    _rowwise[rows, triton.cdiv(columns, BLOCK)](
        weight, factor.contiguous(), codes.view(torch.uint8), columns, FP8=codes.dtype != torch.int8, BLOCK=BLOCK,
        num_warps=4, enable_fp_fusion=False)


@triton.jit
def _inverse(x):
    """1 / x; 0 where that is 0."""
    none = x == 0
    return tl.where(none, 0.0, tl.div_rn(1.0, tl.where(none, 1.0, x)))


@triton.jit
def _q8_0(numbers, out, count, BLOCK: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = group < count
    at = tl.arange(0, 32)[None, :]
    x = tl.load(numbers + group[:, None] * 32 + at, mask=here[:, None], other=0).to(tl.float32)
    scale = tl.minimum(tl.max(tl.abs(x), axis=1) * (1 / 127), 65504.0).to(tl.float16)
    x = x * _inverse(scale.to(tl.float32))[:, None]
    code = tl.minimum(tl.maximum(whole(x), -127.0), 127.0).to(tl.int32) & 255
    bits = scale.to(tl.int16, bitcast=True).to(tl.int32)
    block = out + group * 34
    tl.store(block, (bits & 255).to(tl.uint8), mask=here)
    tl.store(block + 1, ((bits >> 8) & 255).to(tl.uint8), mask=here)
    tl.store(block[:, None] + 2 + at, code.to(tl.uint8), mask=here[:, None])


def put_q8_0(numbers: Tensor, blocks: Tensor) -> None:
    """Fill blocks (n, 34) of Q8_0 with numbers (n, 32)."""
    count = len(numbers)
    _q8_0[triton.cdiv(count, GROUPS),](numbers, blocks, count, BLOCK=GROUPS, num_warps=4, enable_fp_fusion=False)


@triton.jit
def _fit(numbers, scale, least, count, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = group < count
    place = group[:, None] * 32 + tl.arange(0, 32)[None, :]
    x = tl.load(numbers + place, mask=here[:, None], other=0).to(tl.float32)
    top = tl.max(tl.abs(x), axis=1)
    fine = whole(x * (_inverse(top) * 4096.0)[:, None])
    low = tl.minimum(tl.min(fine, axis=1), 0.0)
    step = _inverse(tl.maximum(tl.max(fine, axis=1), 0.0) - low)
    exact = fine.to(tl.int32)
    total = tl.sum(exact, axis=1)
    best = tl.full((BLOCK,), -1.0, tl.float32)
    slope_best = tl.zeros((BLOCK,), tl.float32)
    start_best = tl.zeros((BLOCK,), tl.float32)
    for number in tl.static_range(STEPS):
        code = whole((fine - low[:, None]) * (step * (14.0 + 2.0 * number / (STEPS - 1)))[:, None])
        code = tl.minimum(tl.maximum(code, 0.0), 15.0).to(tl.int32)
        codes = tl.sum(code, axis=1)
        squares = tl.sum(code * code, axis=1)
        mixed = tl.sum(code * exact, axis=1)
        across = (32 * squares - codes * codes).to(tl.float32)
        joint = (32 * mixed - codes * total).to(tl.float32)
        slope = joint * _inverse(across)
        sums = total.to(tl.float32)
        start = (sums - slope * codes.to(tl.float32)) * 0.03125
        straight = mixed.to(tl.float32) * _inverse(squares.to(tl.float32))
        above = start > 0
        free = slope * joint * 0.03125 + sums * sums * 0.03125
        gain = tl.where(above, mixed.to(tl.float32) * straight, free)
        better = gain > best
        best = tl.where(better, gain, best)
        slope_best = tl.where(better, tl.where(above, straight, slope), slope_best)
        start_best = tl.where(better, tl.where(above, 0.0, start), start_best)
    unit = top * 0.000244140625  # 1 / 4096
    tl.store(scale + group, tl.abs(slope_best) * unit, mask=here)
    tl.store(least + group, tl.abs(start_best) * unit, mask=here)


def fit(numbers: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """`weights.quantise.fit` of numbers (n, 32)."""
    count = len(numbers)
    scale = torch.empty(count, 1, dtype=torch.float32, device=numbers.device)
    least = torch.empty_like(scale)
    _fit[triton.cdiv(count, GROUPS),](numbers, scale, least, count, STEPS=steps, BLOCK=GROUPS, num_warps=4,
                                      enable_fp_fusion=False)
    return scale, least


@triton.jit
def _nibbles(numbers, inverse, offset, out, pairs, BLOCK: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    at = tl.arange(0, 32)[None, :]
    inside = pair < pairs
    both = tl.zeros((BLOCK, 32), tl.int32)
    for half in tl.static_range(2):
        group = pair * 2 + half
        x = tl.load(numbers + group * 32 + at, mask=inside, other=0).to(tl.float32)
        x = (x + tl.load(offset + group, mask=inside, other=0)) * tl.load(inverse + group, mask=inside, other=0)
        code = tl.minimum(tl.maximum(whole(x), 0.0), 15.0).to(tl.int32)
        both = both | (code << (4 * half))
    tl.store(out + (pair // 4) * 144 + 16 + (pair % 4) * 32 + at, both.to(tl.uint8), mask=inside)


def put_nibbles(numbers: Tensor, inverse: Tensor, offset: Tensor, blocks: Tensor) -> None:
    """Fill the codes of blocks (n, 144) of Q4_K: (number + offset) times inverse.

    Args:
        numbers: (8 n, 32).
        inverse, offset: (n, 8), float32.
        blocks: their first 16 bytes stay.
    """
    pairs = len(numbers) // 2
    _nibbles[triton.cdiv(pairs, GROUPS),](numbers, inverse.contiguous(), offset.contiguous(), blocks, pairs,
                                          BLOCK=GROUPS, num_warps=4, enable_fp_fusion=False)
