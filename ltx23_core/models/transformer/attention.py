"""Attention with q/k RMS norm over the full width, split rotary positions and a gate per head (spec/02 §6)."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ...ops.attention import AttentionFunction, attention
from ...ops.rope import Rope, apply_rope
from .nag import Nag


class ScaleNorm(nn.Module):
    """RMS norm over the last axis with a weight; computed in float32 by the framework kernel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Self or cross attention; parameter names are the official ones.

    Args:
        query_width: channels of the queries' input, also of the output.
        context_width: channels of the keys' and values' input.
    """

    attend: AttentionFunction = staticmethod(attention)  # the pipeline sets another backend per instance

    def __init__(self, query_width: int, context_width: int, heads: int, head_dim: int, eps: float = 1e-6) -> None:
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

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None, rope: Rope | None = None,
                context_rope: Rope | None = None, bias: Tensor | None = None, skip: bool = False,
                nag: tuple[Nag, Tensor] | None = None) -> Tensor:
        """Attend from x to context.

        Args:
            x: (B, Nq, query_width); also feeds the gate.
            context: (B, Nk, context_width); None: self attention.
            rope, context_rope: tables of queries and of keys (None: the same as the queries').
            bias: additive attention bias, broadcastable to (B, heads, Nq, Nk).
            skip: replace the softmax product by the values themselves (STG, spec/02 §9); self attention only.
            nag: settings and a negative context (B, S, context_width), which the result is pushed away from; acts on
                the softmax product, before gate and output projection, as in its paper. Text attention only.

        Returns:
            (B, Nq, query_width).
        """
        context = x if context is None else context
        if skip:
            attended = self.to_v(context)
        else:
            query = self._heads(self.q_norm(self.to_q(x)))
            if rope is not None:
                query = apply_rope(query, rope)
            attended = self._product(query, context, context_rope or rope, bias)
            if nag is not None:
                settings, negative = nag
                attended = settings.blend(attended, self._product(query, negative, None, None))
        gate = 2 * torch.sigmoid(self.to_gate_logits(x))
        return self.to_out[0]((attended.unflatten(-1, (self.heads, -1)) * gate[..., None]).flatten(2))

    def _product(self, query: Tensor, context: Tensor, rope: Rope | None, bias: Tensor | None) -> Tensor:
        """Softmax product of queries (B, heads, Nq, d) with a context (B, Nk, width): (B, Nq, heads d)."""
        key, value = self._heads(self.k_norm(self.to_k(context))), self._heads(self.to_v(context))
        if rope is not None:
            key = apply_rope(key, rope)
        return self.attend(query, key, value, bias).transpose(1, 2).flatten(2)
