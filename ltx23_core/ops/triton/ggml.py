"""Triton form of `weights.ggml`: blocks of GGUF files to numbers in one pass, bits equal.

A program makes some groups of numbers that share a factor; what is one for a group is read once for it. No product is
fused with a sum (``enable_fp_fusion=False``).
"""
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

GROUPS = 64  # done by one program
Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K = range(8)
# Name -> (kind, bytes of a block, groups in a block, numbers of a group).
KINDS = {"Q8_0": (Q8_0, 34, 1, 32), "Q4_0": (Q4_0, 18, 1, 32), "Q4_1": (Q4_1, 20, 1, 32), "Q5_0": (Q5_0, 22, 1, 32),
         "Q5_1": (Q5_1, 24, 1, 32), "Q4_K": (Q4_K, 144, 8, 32), "Q5_K": (Q5_K, 176, 8, 32), "Q6_K": (Q6_K, 210, 16, 16)}


@triton.jit
def _byte(at, here):
    """A byte as int32."""
    return tl.load(at, mask=here, other=0).to(tl.int32)


@triton.jit
def _half(at, here):
    """A float16 in two bytes, as float32."""
    bits = _byte(at, here) | (_byte(at + 1, here) << 8)
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _numbers(raw, out, count, KIND: tl.constexpr, SIZE: tl.constexpr, IN_BLOCK: tl.constexpr, WIDTH: tl.constexpr,
             GROUPS: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)[:, None]
    here = group < count
    block = raw + (group // IN_BLOCK) * SIZE
    j = (group % IN_BLOCK).to(tl.int32)
    i = tl.arange(0, WIDTH)[None, :]
    if KIND == 0:  # Q8_0
        q = (_byte(block + 2 + i, here) ^ 128) - 128
        value = q.to(tl.float32) * _half(block, here)
    elif KIND < 5:  # Q4_0, Q4_1, Q5_0, Q5_1: low halves are the first sixteen
        head: tl.constexpr = 2 + 2 * (KIND % 2 == 0)
        high: tl.constexpr = 4 * (KIND > 2)
        q = (_byte(block + head + high + i % 16, here) >> (4 * (i // 16))) & 15
        if KIND > 2:
            q = q | (((_byte(block + head + i // 8, here) >> (i % 8)) & 1) << 4)
        if KIND == 1:
            q -= 8
        elif KIND == 3:
            q -= 16
        value = q.to(tl.float32) * _half(block, here)
        if head == 4:
            value = value + _half(block + 2, here)
    elif KIND < 7:  # Q4_K, Q5_K
        first = _byte(block + 4 + j, here)
        second = _byte(block + 8 + j, here)
        before = _byte(block + 4 + tl.where(j < 4, 0, j - 4), here) >> 6 << 4
        factor = tl.where(j < 4, first & 63, (second & 15) | before)
        least = tl.where(j < 4, second & 63, (second >> 4) | (first >> 6 << 4))
        codes: tl.constexpr = 16 + 32 * (KIND == 6)
        q = (_byte(block + codes + 32 * (j // 2) + i, here) >> (4 * (j % 2))) & 15
        if KIND == 6:
            q = q | (((_byte(block + 16 + i, here) >> j) & 1) << 4)
        value = q.to(tl.float32) * (_half(block, here) * factor.to(tl.float32))
        value = value - _half(block + 2, here) * least.to(tl.float32)
    else:  # Q6_K: groups of 16; half of the block, quarter of that, half of this
        half, quarter, at = j // 8, j % 8 // 2, (j % 2) * 16 + i
        low = _byte(block + 64 * half + 32 * (quarter % 2) + at, here) >> (4 * (quarter // 2))
        high = _byte(block + 128 + 32 * half + at, here) >> (2 * quarter)
        q = ((low & 15) | ((high & 3) << 4)) - 32
        scale = (_byte(block + 192 + j, here) ^ 128) - 128
        value = q.to(tl.float32) * (_half(block + 208, here) * scale.to(tl.float32))
    tl.store(out + group * WIDTH + i, value.to(out.dtype.element_ty), mask=here)


def dequantise(kind: str, raw: Tensor, out: Tensor) -> Tensor:
    """Fill ``out``, contiguous, with the numbers of whole blocks: raw, uint8, contiguous.

    Args:
        kind: a key of `KINDS`.
    """
    number, size, in_block, width = KINDS[kind]
    count = raw.numel() // size * in_block
    _numbers[triton.cdiv(count, GROUPS),](raw, out, count, KIND=number, SIZE=size, IN_BLOCK=in_block, WIDTH=width,
                                          GROUPS=GROUPS, num_warps=4, enable_fp_fusion=False)
    return out
