"""Attention over streams that are cut by tokens: what stands in an attention's place, one class for each exchange.

All take (B, heads, N, d) of this rank and give (B, heads, Nq, d) of it, as `ops.attention.attention` does.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.transformer.masked import Rows, block_of, masked
from ..models.transformer.model import Transformer
from ..ops.attention import AttentionFunction
from ..ops.partial import Partial, join, partial_attention
from .cut import Cut

Mask = Tensor | tuple[Rows, ...] | None  # of the whole streams
PIECES = 2  # of a rank's heads: one is exchanged while the other is computed


@dataclass(frozen=True)
class Exchanged:
    """An attention of which queries, keys or both are cut.

    Attributes:
        cut: who has what.
        queries, keys: streams.
        attend: the attention itself.
    """

    cut: Cut
    queries: str
    keys: str
    attend: AttentionFunction
    takes_rows = True


class Whole(Exchanged):
    """Every rank has all there is. An object that tells cuts apart, by which recorded forwards are found again."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask = None) -> Tensor:
        """See the module."""
        return masked(self.attend, query, key, value, bias)


class Heads(Exchanged):
    """Every rank gets all tokens of some of the heads, attends, and gives the results back (Ulysses).

    The heads of a rank go in pieces: while one is attended to, the next one arrives and the last one leaves.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask = None) -> Tensor:
        """See the module."""
        count = query.shape[1] // self.cut.group.size
        size = -(-count // min(PIECES, count))
        spans = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        coming = []
        for span in spans:
            coming.append([self._sent(x, span) for x in (query, key, value)])
        leaving = []
        for arrivals in coming:
            made = self._attended(*(arrived() for arrived in arrivals), bias)
            leaving.append(self._returned(made))
        batch, _, rows, width = query.shape
        out = query.new_empty(batch, rows, self.cut.group.size, count, width)
        for span, arrived in zip(spans, leaving, strict=True):
            out[:, :, :, span] = arrived().permute(1, 2, 0, 3, 4)
        return out.flatten(2, 3).transpose(1, 2)

    def _sent(self, x: Tensor, span: slice) -> Callable[[], Tensor]:
        """Some heads of each rank on their way to it; the result waits for (B, heads, all tokens, d)."""
        parts = x.unflatten(1, (self.cut.group.size, -1))[:, :, span]  # (B, ranks, heads, n, d)
        arrived = self.cut.group.all_to_all(parts.permute(1, 0, 3, 2, 4).contiguous())
        return lambda: arrived().transpose(0, 1).flatten(1, 2).transpose(1, 2)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask) -> Tensor:
        """All tokens of some heads; what fills up is no key."""
        keys, queries = self.cut.count(self.keys), self.cut.count(self.queries)
        key, value = key[:, :, :keys], value[:, :, :keys]
        if bias is None:
            return self.attend(query, key, value, None)
        made = masked(self.attend, query[:, :, :queries], key, value, bias)
        return pad(made, (0, 0, 0, query.shape[2] - queries))

    def _returned(self, made: Tensor) -> Callable[[], Tensor]:
        """(B, heads, all tokens, d) on its way back; the result waits for (ranks' heads, B, n, heads, d)."""
        parts = made.transpose(1, 2).unflatten(1, (self.cut.group.size, -1))
        return self.cut.group.all_to_all(parts.transpose(0, 1).contiguous())


class Ring(Exchanged):
    """Keys and values go round; every rank attends from its own queries to each part and joins the results.

    For heads that the ranks do not divide. The next part is on its way while one is attended to.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask = None) -> Tensor:
        """See the module."""
        group = self.cut.group
        part = torch.stack((key, value))
        made: Partial | None = None
        for step in range(group.size):
            arrived = None
            if step < group.size - 1:
                arrived = group.shift(part)
            member = (group.index - step) % group.size
            own = part[:, :, :, :self.cut.own(self.keys, member)]
            found = partial_attention(query, *own, self._bias(bias, member, query))
            made = found if made is None else join(made, found)
            if arrived is not None:
                part = arrived()
        return made.out.to(query.dtype)

    def _bias(self, bias: Mask, member: int, query: Tensor) -> Tensor | None:
        """Of this rank's queries and a member's keys; queries that fill up have none."""
        if bias is None:
            return None
        cut, rows = self.cut, query.shape[2]
        first, keys = cut.group.index * cut.rows(self.queries), member * cut.rows(self.keys)
        own = slice(keys, keys + cut.own(self.keys, member))
        if isinstance(bias, Tensor):
            part = bias[..., first:first + rows, own]
            return pad(part, (0, 0, 0, rows - part.shape[-2]))
        return block_of(bias, slice(first, first + rows), own, query.dtype, query.device)


class KeysGathered(Exchanged):
    """Every rank gets all keys and values: few of them, for many queries."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask = None) -> Tensor:
        """See the module."""
        both = torch.stack((key, value)).transpose(2, 3).flatten(3)  # (2, B, n, heads d)
        whole = self.cut.join(self.keys, both).unflatten(-1, (key.shape[1], -1)).transpose(2, 3)
        return self.attend(query, *whole, bias)


class KeysApart(Exchanged):
    """Every rank attends from all queries, which it has, to its own keys; the results are joined."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bias: Mask = None) -> Tensor:
        """See the module."""
        own = self.cut.own(self.keys, self.cut.group.index)
        found = partial_attention(query, key[:, :, :own], value[:, :, :own], bias)
        both = torch.cat((found.out.float(), found.lse[..., None]), dim=-1)
        parts = self.cut.group.gather(both)
        weights = parts[..., -1:].softmax(dim=0)
        made = (parts[..., :-1] * weights).sum(dim=0)
        # The rows that an attention gives: a token's heads behind each other.
        return made.transpose(1, 2).to(query.dtype, memory_format=torch.contiguous_format).transpose(1, 2)


def exchanged(cut: Cut, queries: str, keys: str, heads: int, attend: AttentionFunction) -> AttentionFunction:
    """What an attention from one stream to another becomes: the exchange that moves least."""
    if cut.group.size == 1:
        return attend
    if not cut.count(keys):
        return Whole(cut, queries, keys, attend)
    if not cut.count(queries):
        return KeysApart(cut, queries, keys, attend)
    size = cut.group.size
    few = cut.count(keys) * (size - 1) < cut.count(queries)
    if not few and heads % size == 0:
        return Heads(cut, queries, keys, attend)
    if queries == keys:
        return Ring(cut, queries, keys, attend)
    return KeysGathered(cut, queries, keys, attend)


def install(model: Transformer, cut: Cut) -> None:
    """Have a model's attentions work on streams that are cut; a cut of nothing gives it back as it was.

    Text attention is as it is: every rank has the whole prompt.
    """
    for block in model.transformer_blocks:
        for name, other in (("video", "audio"), ("audio", "video")):
            parts = block.parts(name)
            plain = parts.text_attention.attend
            for part, keys in ((parts.self_attention, name), (parts.cross, other)):
                part.attend = exchanged(cut, queries=name, keys=keys, heads=part.heads, attend=plain)
