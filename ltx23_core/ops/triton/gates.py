"""Triton form of `ops.gates`: a program per token."""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .codes import LARGEST
from .launch import Launcher


@triton.jit
def _gate_heads(x, logits, out, steps, tokens, x_batch, x_row, x_head, logits_batch, logits_row,
                HEADS: tl.constexpr, WIDTH: tl.constexpr, LARGEST: tl.constexpr):
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, column = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    gate = tl.load(logits + batch * logits_batch + token * logits_row + head).to(tl.float32)
    gate = 2.0 / (1.0 + tl.exp(-gate))
    h = tl.load(x + batch * x_batch + token * x_row + head[:, None] * x_head + column[None, :]).to(tl.float32)
    target = (batch * tokens + token) * (HEADS * WIDTH) + head[:, None] * WIDTH + column[None, :]
    h = h * gate[:, None]
    if LARGEST > 0.0:  # as codes
        step = tl.max(tl.abs(h)) / LARGEST
        step = tl.where(step == 0.0, 1.0, step)
        tl.store(steps + batch * tokens + token, step)
        h = h / step
        if LARGEST == 127.0:
            h = (h + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest whole number
    tl.store(out + target, h.to(out.dtype.element_ty))


_GATE_HEADS = Launcher(_gate_heads)


def fits(x: Tensor) -> bool:
    """Whether the kernel can take a shape: heads and their width powers of two, as in every 2.3 model."""
    return all(n > 0 and n & (n - 1) == 0 for n in x.shape[2:])


def gate_heads(attended: Tensor, logits: Tensor, codes: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
    """See `ops.gates.gate_heads`; the rows, and their steps where they are codes."""
    x = attended if attended.stride(-1) == 1 else attended.contiguous()
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    batch, tokens, heads, width = x.shape
    out, steps = x.flatten(2), None
    if codes is not None or not x.is_contiguous():
        out = torch.empty(batch, tokens, heads * width, dtype=codes or x.dtype, device=x.device)
    if codes is not None:
        steps = torch.empty(batch, tokens, 1, dtype=torch.float32, device=x.device)
    _GATE_HEADS((tokens, batch), (x, logits, out, x if steps is None else steps),
                (tokens, *x.stride()[:3], *logits.stride()[:2]), (heads, width, LARGEST.get(codes, 0.0)),
                warps=8 if heads * width > 2048 else 4)
    return out, steps
