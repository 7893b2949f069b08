"""Attention with q/k RMS norm over the full width, split rotary positions and a gate per head (spec/02 §6)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...ops.attention import AttentionFunction, attention
from ...ops.codes import Coded, codes_of
from ...ops.gates import gate_heads
from ...ops.matmul import linears
from ...ops.norms import norm_rope, norm_rope_pair
from ...ops.pick import way
from ...ops.rope import Rope
from .masked import Rows, attend_rows
from .nag import NagNumbers, push

KeysValues = tuple[Tensor, Tensor]
"""Normed and rotated keys and values of a context, (B, Nk, heads d) each."""


class ScaleNorm(nn.Module):
    """The weight of an RMS norm over the last axis; `ops.norms` applies it."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps


class Attention(nn.Module):
    """Self or cross attention; parameter names are the official ones.

    From the projections to the output one layout is kept, a row per token with the heads behind each other: what a
    kernel sees as (B, heads, N, d) is a view of it, and nothing is copied in between.

    Args:
        query_width: channels of the queries' input, also of the output.
        context_width: channels of the keys' and values' input.
    """

    attend: AttentionFunction = staticmethod(attention)  # the pipeline sets another backend per instance

    def __init__(self, query_width: int, context_width: int, heads: int, head_dim: int,
                 eps: float = 1e-6) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(query_width, inner)
        self.to_k = nn.Linear(context_width, inner)
        self.to_v = nn.Linear(context_width, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, query_width)])
        self.to_gate_logits = nn.Linear(query_width, heads)
        self.q_norm = ScaleNorm(inner, eps)
        self.k_norm = ScaleNorm(inner, eps)

    @property
    def together(self) -> Sequence[Sequence[str]]:
        """Layers whose parameters make one product where they lie behind each other, in this order.

        Gate logits, queries, keys, values: so a self attention is one product, and a cross attention two.
        """
        names = ("to_gate_logits", "to_q"), ("to_k", "to_v")
        if self.to_q.in_features != self.to_k.in_features:
            return names
        return (names[0] + names[1],)

    def codes(self, context: bool) -> torch.dtype | None:
        """The dtype of codes (`ops.codes`) in which x, or else the context, is taken; None: numbers.

        Args:
            context: of keys and values alone; else of queries, and of all four in a self attention.
        """
        if context:
            return codes_of((self.to_k, self.to_v))
        if len(self.together) == 1:
            return codes_of((self.to_gate_logits, self.to_q, self.to_k, self.to_v))
        return codes_of((self.to_gate_logits, self.to_q))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, heads d) -> (B, heads, N, d), a view."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor | Coded, context: Tensor | Coded | None = None, rope: Rope | None = None,
                context_rope: Rope | None = None, bias: Tensor | None = None, skip: bool = False,
                nag: tuple[NagNumbers, KeysValues] | None = None,
                keys_values: KeysValues | None = None, rows: Sequence[Rows] = ()) -> Tensor:
        """Attend from x to context.

        Args:
            x: (B, Nq, query_width); also feeds the gate. It and the context as `codes` says.
            context: (B, Nk, context_width); None: self attention, or ``keys_values`` are given.
            rope, context_rope: tables of queries and of keys.
            bias: additive attention bias, broadcastable to (B, heads, Nq, Nk).
            skip: replace the softmax product by the values themselves (STG, spec/02 §9); self attention only.
            nag: settings, and keys and values of a negative context, which the result is pushed away from; acts on
                the softmax product, before gate and output projection, as in its paper. Text attention only.
            keys_values: of `keys_values`, in place of a context.
            rows: a mask of the self attention, in place of ``bias``.

        Returns:
            (B, Nq, query_width).
        """
        if skip:
            if isinstance(x, Coded):
                logits, value = linears(x, (self.to_gate_logits, self.to_v))
            else:
                logits, value = self.to_gate_logits(x), self.to_v(x)
            return self._out(value.unflatten(-1, (self.heads, -1)), logits)
        if context is None and keys_values is None:
            logits, query, key, value = self._projected(x, (self.to_q, self.to_k, self.to_v))
            query, key = norm_rope_pair((query, self.q_norm.weight), (key, self.k_norm.weight), rope,
                                        self.heads, self.q_norm.eps)
        else:
            logits, query = self._projected(x, (self.to_q,))
            query = norm_rope(query, self.q_norm.weight, rope, self.heads, self.q_norm.eps)
            key, value = keys_values or self.keys_values(context, context_rope)
        attended = self._product(query, key, value, bias, rows)
        if nag is not None:
            settings, negative = nag
            blended = push(settings, attended.flatten(2), self._product(query, *negative, None).flatten(2))
            attended = blended.unflatten(-1, (self.heads, -1))
        del query, key, value, keys_values  # before the output is made: a width of memory each, or two
        return self._out(attended, logits)

    def _projected(self, x: Tensor | Coded, layers: tuple[nn.Module, ...]) -> list[Tensor]:
        """Gate logits, and what some layers make of the same input."""
        if way("gates") == "apart":
            return linears(x, (self.to_gate_logits,)) + linears(x, layers)
        return linears(x, (self.to_gate_logits, *layers))

    def keys_values(self, context: Tensor | Coded, rope: Rope | None = None) -> KeysValues:
        """Keys and values of a context (B, Nk, context_width), for any number of calls."""
        key, value = linears(context, (self.to_k, self.to_v))
        return norm_rope(key, self.k_norm.weight, rope, self.heads, self.k_norm.eps), value

    def _product(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None,
                 rows: Sequence[Rows] = ()) -> Tensor:
        """Softmax product, (B, Nq, heads, d)."""
        heads = self._heads(query), self._heads(key), self._heads(value)
        if not rows:
            return self.attend(*heads, bias).transpose(1, 2)
        if getattr(self.attend, "takes_rows", False):  # tokens are cut: whoever joins them knows which rows are whose
            return self.attend(*heads, rows).transpose(1, 2)
        return attend_rows(self.attend, *heads, rows).transpose(1, 2)

    def _out(self, attended: Tensor, logits: Tensor) -> Tensor:
        """Gate and output projection of (B, Nq, heads, d)."""
        return self.to_out[0](gate_heads(attended, logits, codes_of(self.to_out)))
