"""Triton form of `ops.gates`: a program per token."""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _gate_heads(x, logits, out, tokens, x_batch, x_row, x_head, logits_batch, logits_row,
                HEADS: tl.constexpr, WIDTH: tl.constexpr):
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, column = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    gate = tl.load(logits + batch * logits_batch + token * logits_row + head).to(tl.float32)
    gate = 2.0 / (1.0 + tl.exp(-gate))
    h = tl.load(x + batch * x_batch + token * x_row + head[:, None] * x_head + column[None, :]).to(tl.float32)
    target = (batch * tokens + token) * (HEADS * WIDTH) + head[:, None] * WIDTH + column[None, :]
    tl.store(out + target, (h * gate[:, None]).to(out.dtype.element_ty))


def fits(x: Tensor) -> bool:
    """Whether the kernel can take a shape: heads and their width powers of two, as in every 2.3 model."""
    return all(n > 0 and n & (n - 1) == 0 for n in x.shape[2:])


def gate_heads(attended: Tensor, logits: Tensor) -> Tensor:
    """See `ops.gates.gate_heads`."""
    x = attended if attended.stride(-1) == 1 else attended.contiguous()
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    batch, tokens, heads, width = x.shape
    out = torch.empty(batch, tokens, heads * width, dtype=x.dtype, device=x.device)
    _gate_heads[(tokens, batch)](
        x, logits, out, tokens, *x.stride()[:3], *logits.stride()[:2], HEADS=heads, WIDTH=width,
        num_warps=8 if heads * width > 2048 else 4)
    return out
