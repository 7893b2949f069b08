"""Rotary position embedding, split form (spec/02 §5)."""
from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class RopeRows(NamedTuple):
    """Rotary tables without repetition: a token's column is that of its position on one axis, which many tokens share.

    The 32,640 tokens of a 1920x1088 video have 110 positions, whose rows a device keeps in its cache; written out for
    every token they are a width and a half of memory, read in every block.

    Attributes:
        cos, sin: (positions, W / 2), of all axes behind each other; a row has an axis's numbers in all columns.
        index: int32 (B, axes, N), the row of each token on each axis.
    """

    cos: Tensor
    sin: Tensor
    index: Tensor

    @property
    def padding(self) -> int:
        """Columns in front that belong to no axis."""
        return self.cos.shape[-1] % self.index.shape[1]

    def whole(self) -> tuple[Tensor, Tensor]:
        """cos and sin of every token, (B, N, W / 2), the bytes of `rope_tables`."""
        columns = torch.arange(self.cos.shape[-1], device=self.cos.device)
        axis = (columns - self.padding) % self.index.shape[1]
        rows = self.index.long().transpose(1, 2)[..., axis]  # (B, N, W / 2)
        return self.cos[rows, columns], self.sin[rows, columns]


Rope = tuple[Tensor, Tensor] | RopeRows
"""cos and sin, each (B, N, W / 2): one row a token, whose heads follow each other; or rows by position."""


@lru_cache(maxsize=32)
def rope_frequencies(theta: float, count: int) -> Tensor:
    """``theta ** linspace(0, 1, count) * pi / 2`` in float64 on the CPU, rounded to float32; shape (count,)."""
    return torch.from_numpy((theta ** np.linspace(0.0, 1.0, count) * (math.pi / 2)).astype(np.float32))


def rope_tables(middles: Tensor, width: int, max_pos: tuple[float, ...], theta: float,
                dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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


def rope_rows(middles: Tensor, width: int, max_pos: tuple[float, ...], theta: float, dtype: torch.dtype) -> RopeRows:
    """`rope_tables`, by position. Waits for the device.

    Args:
        middles, width, max_pos, theta, dtype: as there.
    """
    axes, cosines, sines, indices, count = middles.shape[1], [], [], [], 0
    for axis in range(axes):
        positions, place = torch.unique(middles[:, axis], return_inverse=True)
        # All axes at one position: its columns are those of the whole table, and the others are not read.
        own = positions.expand(1, axes, -1)
        limits = (max_pos[axis],) * axes
        cos, sin = rope_tables(own, width, limits, theta, dtype)
        cosines.append(cos[0])
        sines.append(sin[0])
        indices.append(place + count)
        count += len(positions)
    return RopeRows(torch.cat(cosines), torch.cat(sines), torch.stack(indices, dim=1).int().contiguous())


def apply_rope(x: Tensor, rope: Rope, heads: int) -> Tensor:
    """Rotate the halves of each head: x (B, N, W) with tables (B or 1, N, W / 2).

    The first product is rounded to x's dtype before the second is added, as in the official code (spec/02 §5.6).
    """
    if isinstance(rope, RopeRows):
        rope = rope.whole()
    cos, sin = rope[0].unflatten(-1, (heads, -1)), rope[1].unflatten(-1, (heads, -1))
    first, second = x.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
    return torch.cat((torch.addcmul(first * cos, second, sin, value=-1),
                      torch.addcmul(second * cos, first, sin)), dim=-1).flatten(2)
