"""Softmax attention over some of the keys, and the whole of several such parts: out and log of the denominator."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .attention import FEW, aligned, order


class Partial(NamedTuple):
    """Attention over some of the keys.

    Attributes:
        out: (B, heads, Nq, d), normalised over these keys.
        lse: float32 (B, heads, Nq), log of the sum of exp(logits); -inf where there was no key.
    """

    out: Tensor
    lse: Tensor


def partial_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Partial:
    """Softmax(q k^T / sqrt(d) + bias) v, and what is needed to join it with attention over other keys.

    Args:
        query: (B, heads, Nq, d).
        key, value: (B, heads, Nk, d); Nk may be 0.
        bias: additive, broadcastable to (B, heads, Nq, Nk), or None.
    """
    if not key.shape[2]:
        return Partial(torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf, dtype=torch.float32))
    if bias is not None:
        return _definition(query, key, value, bias)
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
        return Partial(out, lse.float())
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0:
        return _fused(aligned(query), aligned(key), aligned(value))
    return _definition(query, key, value, None)


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Partial:
    """cuDNN's kernel for many queries, FlashAttention for few: its blocks also split the keys."""
    hopper = torch.cuda.get_device_capability(query.device)[0] >= 9
    if hopper and order(query.shape, key.shape[2]) != FEW:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, True)
        return Partial(out, lse.reshape(query.shape[:3]).float())
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)
    return Partial(out, lse[:, :, :query.shape[2]].float())


def _definition(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Partial:
    """Head by head, so that only one head's logits are there."""
    outs: list[Tensor] = []
    sums: list[Tensor] = []
    if bias is not None:
        bias = bias.expand(-1, query.shape[1], -1, -1)
    for head in range(query.shape[1]):
        logits = (query[:, head].float() @ key[:, head].float().mT) / query.shape[-1] ** 0.5
        if bias is not None:
            logits = logits + bias[:, head]
        sums.append(logits.logsumexp(-1))
        weights = (logits - sums[-1][..., None]).exp()
        outs.append((weights @ value[:, head].float()).to(query.dtype))
    return Partial(torch.stack(outs, dim=1), torch.stack(sums, dim=1))


def join(one: Partial, other: Partial) -> Partial:
    """Attention over the keys of both, in float32; commutes up to rounding."""
    lse = torch.logaddexp(one.lse, other.lse)
    weights = (one.lse - lse).exp()[..., None], (other.lse - lse).exp()[..., None]
    return Partial(one.out.float() * weights[0] + other.out.float() * weights[1], lse)
