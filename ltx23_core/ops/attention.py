"""Softmax attention behind one function, with named backends (spec/02 §6)."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import RequestError

AttentionFunction = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

# Name -> kernels that torch may take, best first. The order is the official one for unmasked attention.
BACKENDS: dict[str, tuple[str, ...]] = {
    "auto": (), "cudnn": ("CUDNN_ATTENTION",), "flash": ("FLASH_ATTENTION",),
    "efficient": ("EFFICIENT_ATTENTION",), "math": ("MATH",),
}


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax(q k^T / sqrt(d) + bias) v with the kernel that torch picks.

    Args:
        query: (B, heads, Nq, d).
        key, value: (B, heads, Nk, d).
        bias: additive, broadcastable to (B, heads, Nq, Nk), or None.

    Returns:
        (B, heads, Nq, d) in query's dtype.
    """
    return scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _forced(kernels: tuple[str, ...], query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    wanted = [getattr(SDPBackend, name) for name in kernels]
    # The math form stays allowed: fused kernels refuse some masks and small head sizes.
    with sdpa_kernel([*wanted, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] if bias is not None else wanted):
        return attention(query, key, value, bias)


def attention_backend(name: str) -> AttentionFunction:
    """The attention function of a backend; `RequestError` names the backends there are."""
    if name not in BACKENDS:
        raise RequestError(f"attention backend is {name!r}", f"one of {', '.join(BACKENDS)}", "Choose auto.")
    return partial(_forced, BACKENDS[name]) if BACKENDS[name] else attention


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn weights in [0, 1] into an additive bias log(mask), fully masked at 0 (spec/07 §8).

    Args:
        mask: any shape, float or integer.
        dtype: dtype of the bias; 0 becomes its lowest finite value.
    """
    info = torch.finfo(dtype)
    weights = mask.to(dtype)
    return torch.where(weights > 0, weights.clamp(min=info.tiny).log(), info.min)
