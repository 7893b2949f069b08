"""Masked self attention some queries at a time: a mask of N x N numbers is never there (spec/07 §8)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ops.attention import AttentionFunction

QUERIES = 512  # at once: 32 heads of them fill a large device, and their bias fits its cache
ALIGNED = 16   # values that a row of the bias begins at a multiple of, so that kernels need no copy of it


@dataclass(frozen=True)
class Rows:
    """Queries [start, end) that see the keys alike.

    Attributes:
        start, end: tokens.
        bias: additive (keys,) in the model's dtype; None: all of them are seen wholly.
        own: additive (end - start,), of each query its own towards the first ``clip`` keys, in place of ``bias``; None:
            that of ``bias``.
        clip: keys.
    """

    start: int
    end: int
    bias: Tensor | None
    own: Tensor | None = None
    clip: int = 0


def attend_rows(attend: AttentionFunction, query: Tensor, key: Tensor, value: Tensor,
                rows: Sequence[Rows]) -> Tensor:
    """The attention of `attend` under a mask.

    Args:
        attend: without a mask of its own.
        query, key, value: (B, heads, N, d).
        rows: of all N queries, in order.

    Returns:
        (B, heads, N, d), a view of rows of tokens with the heads behind each other.
    """
    batch, heads, count, size = query.shape
    made = query.new_empty(batch, count, heads, size).transpose(1, 2)
    longest = min(QUERIES, max(part.end - part.start for part in rows))
    padded = -(-count // ALIGNED) * ALIGNED
    tile = query.new_empty(1, 1, longest, padded)[..., :count]
    for part in rows:
        if part.bias is None:
            own = slice(part.start, part.end)
            made[:, :, own] = attend(query[:, :, own], key, value, None)
            continue
        tile.copy_(part.bias)
        for first in range(part.start, part.end, QUERIES):
            own = slice(first, min(first + QUERIES, part.end))
            bias = tile[:, :, :own.stop - first]
            if part.own is not None:
                bias[..., :part.clip] = part.own[first - part.start:own.stop - part.start, None]
            made[:, :, own] = attend(query[:, :, own], key, value, bias)
    return made


def masked(attend: AttentionFunction, query: Tensor, key: Tensor, value: Tensor,
           mask: Tensor | Sequence[Rows] | None) -> Tensor:
    """An attention under a bias, under rows, or under neither."""
    if mask is None or isinstance(mask, Tensor):
        return attend(query, key, value, mask)
    return attend_rows(attend, query, key, value, mask)


def block_of(rows: Sequence[Rows], queries: slice, keys: slice, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The bias of some queries over some keys, (1, 1, queries, keys): so many numbers."""
    made = torch.zeros(queries.stop - queries.start, keys.stop - keys.start, dtype=dtype, device=device)
    for part in rows:
        first, last = max(queries.start, part.start), min(queries.stop, part.end)
        if part.bias is None or first >= last:
            continue
        place = made[first - queries.start:last - queries.start]
        place.copy_(part.bias[keys])
        if part.own is not None and part.clip > keys.start:
            place[:, :part.clip - keys.start] = part.own[first - part.start:last - part.start, None]
    return made[None, None]


def bias_bytes(tokens: int, bytes_per_value: int) -> int:
    """What a mask over so many tokens takes beside them: one tile of bias, and what a kernel gives for its queries."""
    return QUERIES * (tokens + ALIGNED) * bytes_per_value
