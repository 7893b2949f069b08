"""Rotary position embedding, split form (spec/02 §5)."""
from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""cos and sin, each (B, N, W / 2): one row a token, whose heads follow each other."""


@lru_cache(maxsize=32)
def rope_frequencies(theta: float, count: int) -> Tensor:
    """``theta ** linspace(0, 1, count) * pi / 2`` in float64 on the CPU, rounded to float32; shape (count,)."""
    return torch.from_numpy((theta ** np.linspace(0.0, 1.0, count) * (math.pi / 2)).astype(np.float32))


def rope_tables(middles: Tensor, width: int, max_pos: tuple[float, ...], theta: float,
                dtype: torch.dtype) -> Rope:
    """Rotary tables of one attention.

    Args:
        middles: float32 (B, axes, N), the middle of each token in seconds or pixels (for text: its index).
        width: channels of the attention over all heads; its half is shared by the axes, the rest is padded in front.
        max_pos: longest position of each axis, in the unit of ``middles``.
        dtype: dtype of the returned tables; angles are float32.

    Returns:
        cos and sin, (B, N, width / 2), contiguous. Angles are ordered (frequency, axis), axis fastest, and cut
        into heads after padding, so every head has its own band.
    """
    axes = middles.shape[1]
    frequencies = rope_frequencies(theta, width // (2 * axes)).to(middles.device)
    limits = torch.tensor(max_pos, dtype=torch.float32).to(middles.device)
    centred = 2 * (middles / limits[:, None]) - 1
    angles = (centred.transpose(1, 2)[:, :, None, :] * frequencies[None, None, :, None]).flatten(2)
    padding = width // 2 - angles.shape[-1]
    cos = torch.nn.functional.pad(angles.cos(), (padding, 0), value=1.0)
    sin = torch.nn.functional.pad(angles.sin(), (padding, 0), value=0.0)

    return cos.to(dtype).contiguous(), sin.to(dtype).contiguous()


def apply_rope(x: Tensor, rope: Rope, heads: int) -> Tensor:
    """Rotate the halves of each head: x (B, N, W) with tables (B or 1, N, W / 2).

    The first product is rounded to x's dtype before the second is added, as in the official code (spec/02 §5.6).
    """
    cos, sin = rope[0].unflatten(-1, (heads, -1)), rope[1].unflatten(-1, (heads, -1))
    first, second = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    return torch.cat((torch.addcmul(first * cos, second, sin, value=-1),
                      torch.addcmul(second * cos, first, sin)), dim=-1).flatten(2)
