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
SUPER = 8  # blocks of 256 numbers, the same


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
def _lines(fine, low, top, step, STEPS: tl.constexpr):
    """`weights.quantise.fit` of groups (n, 32) of whole numbers: scale and least, (n,).

    Sums are of whole numbers below 2^24, which float32 holds, in any order; what is larger is made of them as integers.
    """
    above_low = fine - low[:, None]
    total = tl.sum(fine, axis=1).to(tl.int32)
    sums = total.to(tl.float32)
    best = tl.full(low.shape, -1.0, tl.float32)
    slope_best = tl.zeros_like(low)
    start_best = tl.zeros_like(low)
    for number in tl.static_range(STEPS):
        code = tl.minimum(whole(above_low * (step * (14.0 + 2.0 * number / (STEPS - 1)))[:, None]), 15.0)
        codes = tl.sum(code, axis=1)
        squares = tl.sum(code * code, axis=1)
        mixed = tl.sum(code * fine, axis=1)
        joint = (32 * mixed.to(tl.int32) - codes.to(tl.int32) * total).to(tl.float32)
        slope = joint * _inverse(32.0 * squares - codes * codes)
        start = (sums - slope * codes) * 0.03125
        straight = mixed * _inverse(squares)
        above = start > 0
        gain = tl.where(above, mixed * straight, slope * joint * 0.03125 + sums * sums * 0.03125)
        better = gain > best
        best = tl.where(better, gain, best)
        slope_best = tl.where(better, tl.where(above, straight, slope), slope_best)
        start_best = tl.where(better, tl.where(above, 0.0, start), start_best)
    unit = tl.where(top < float("inf"), top * 0.000244140625, 0.0)  # 1 / 4096
    return tl.abs(slope_best) * unit, tl.abs(start_best) * unit


@triton.jit
def _shared(values):
    """Eight numbers of each block (n, 8) as codes of 6 bits times one float16: its bits (n,), codes, products."""
    scale = tl.minimum(tl.max(values, axis=1) * (1 / 63), 65504.0).to(tl.float16)
    numbers = scale.to(tl.float32)
    codes = tl.minimum(whole(values * _inverse(numbers)[:, None]), 63.0)
    return scale.to(tl.int16, bitcast=True).to(tl.int32), codes.to(tl.int32), numbers[:, None] * codes


@triton.jit
def _q4_k(numbers, out, count, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    group = first * 8 + tl.arange(0, BLOCK * 8)
    at = tl.arange(0, 32)[None, :]
    x = tl.load(numbers + group[:, None] * 32 + at, mask=(group < count * 8)[:, None], other=0).to(tl.float32)
    top = tl.max(tl.abs(x), axis=1)
    fine = whole(x * (_inverse(top) * 4096.0)[:, None])
    low = tl.minimum(tl.min(fine, axis=1), 0.0)
    step = _inverse(tl.maximum(tl.max(fine, axis=1), 0.0) - low)
    scale, least = _lines(fine, low, top, step, STEPS)
    scale_bits, s, factor = _shared(tl.reshape(scale, (BLOCK, 8)))
    least_bits, m, offset = _shared(tl.reshape(least, (BLOCK, 8)))

    block = first + tl.arange(0, BLOCK)
    here = block < count
    place = out + block * 144
    for number in tl.static_range(2):
        tl.store(place + number, (scale_bits >> (8 * number) & 255).to(tl.uint8), mask=here)
        tl.store(place + 2 + number, (least_bits >> (8 * number) & 255).to(tl.uint8), mask=here)
    # The first four codes whole, with the upper two bits of the last four, whose other bits share bytes.
    half = tl.arange(0, 2)[None, :, None]
    s, m = tl.reshape(s, (BLOCK, 2, 4)), tl.reshape(m, (BLOCK, 2, 4))
    byte = place[:, None] + 4 + tl.arange(0, 4)[None, :]
    tl.store(byte, tl.sum(tl.where(half == 0, s, s >> 4 << 6), axis=1).to(tl.uint8), mask=here[:, None])
    tl.store(byte + 4, tl.sum(tl.where(half == 0, m, m >> 4 << 6), axis=1).to(tl.uint8), mask=here[:, None])
    tl.store(byte + 8, tl.sum(tl.where(half == 0, 0, s & 15 | (m & 15) << 4), axis=1).to(tl.uint8), mask=here[:, None])

    factor, offset = tl.reshape(factor, (BLOCK * 8,)), tl.reshape(offset, (BLOCK * 8,))
    x = whole((x + offset[:, None]) * _inverse(factor)[:, None])
    code = tl.minimum(tl.maximum(x, 0.0), 15.0).to(tl.int32) << ((tl.arange(0, BLOCK * 8) % 2) * 4)[:, None]
    both = tl.sum(tl.reshape(code, (BLOCK * 4, 2, 32)), axis=1)
    pair = first * 4 + tl.arange(0, BLOCK * 4)
    tl.store(out + (pair // 4 * 144 + 16 + pair % 4 * 32)[:, None] + at, both.to(tl.uint8),
             mask=(pair < count * 4)[:, None])


def put_q4_k(numbers: Tensor, blocks: Tensor, steps: int) -> None:
    """Fill blocks (n, 144) of Q4_K with numbers (8 n, 32), trying so many steps a group."""
    count = len(blocks)
    _q4_k[triton.cdiv(count, SUPER),](numbers, blocks, count, STEPS=steps, BLOCK=SUPER, num_warps=4,
                                      enable_fp_fusion=False)
