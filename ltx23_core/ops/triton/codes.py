"""Triton form of `ops.codes`: rows to codes, with a GELU before it or not, and what follows an int8 product."""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launcher

COLUMNS = 1024
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


@triton.jit
def _quantise(x, codes, steps, width, x_row, GELU: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    v = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        v = v / (1.0 + tl.exp(-1.5957691216057308 * (v + 0.044715 * v * v * v)))
    step = tl.max(tl.abs(v)) / LARGEST
    step = tl.where(step == 0.0, 1.0, step)
    tl.store(steps + row, step)
    v = v / step
    if LARGEST == 127.0:
        v = (v + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest whole number
    tl.store(codes + row * width + column, v.to(codes.dtype.element_ty), mask=inside)


@triton.jit
def _scaled(sums, steps, scale, bias, out, width, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    v = tl.load(sums + row * width + column, mask=inside, other=0).to(tl.float32)
    v = v * tl.load(steps + row) * tl.load(scale + column, mask=inside, other=0.0)
    if BIAS:
        v += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, v.to(out.dtype.element_ty), mask=inside)


_QUANTISE, _SCALED = Launcher(_quantise), Launcher(_scaled)


def quantise(x: Tensor, dtype: torch.dtype, gelu: bool) -> tuple[Tensor, Tensor]:
    """Codes and steps of rows, (…, W) and (…, 1); ``gelu``: of their tanh GELU."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    count, width = rows.shape
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    steps = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _QUANTISE((count, 1), (rows, codes, steps), (width, rows.stride(0)), (gelu, LARGEST[dtype], block),
              warps=min(16, max(4, block // 1024)))
    return codes, steps


def scaled(sums: Tensor, steps: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int32 sums (N, W) times steps (N, 1) and scale (W,), plus bias (W,)."""
    sums, scale = sums.contiguous(), scale.contiguous()
    count, width = sums.shape
    out = torch.empty(sums.shape, dtype=dtype, device=sums.device)
    _SCALED((count, triton.cdiv(width, COLUMNS)), (sums, steps, scale, scale if bias is None else bias, out), (width,),
            (bias is not None, COLUMNS), warps=4)
    return out
