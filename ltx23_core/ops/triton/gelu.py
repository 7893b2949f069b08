"""Triton form of the GELU in `ops.gelu`: elementwise, in place."""
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launcher

BLOCK = 4096


@triton.jit
def _gelu_tanh(x, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    u = 1.5957691216057308 * (v + 0.044715 * v * v * v)  # 2 sqrt(2 / pi) (...): 1/2 (1 + tanh(u/2)) = sigmoid(u)
    tl.store(x + place, (v / (1.0 + tl.exp(-u))).to(x.dtype.element_ty), mask=inside)


_GELU = Launcher(_gelu_tanh)


def gelu_tanh_(x: Tensor) -> Tensor:
    """Tanh GELU in place, in float32; returns x (a copy where x is not contiguous)."""
    x = x.contiguous()
    _GELU((triton.cdiv(x.numel(), BLOCK), 1), (x,), (x.numel(),), (BLOCK,), warps=8)
    return x
