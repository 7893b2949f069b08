"""Gemma's hidden states to text features: the feature extractor V2 of LTX-2.3 (spec/03 §3)."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...config import TextProjectionConfig, row_pieces
from ...errors import OverlayError

EPS = 1e-6


def normalize_and_concat(hidden_states: Sequence[Tensor] | Tensor, like: Tensor | None = None) -> Tensor:
    """Every layer's state over its root mean square, all layers of a token in one vector.

    Args:
        hidden_states: L tensors (B, T, D), or one (L, B, T, D). Arithmetic is in their dtype, as officially.
        like: they are brought to its device and dtype first, one at a time; None: they stay where they are.

    Returns:
        (B, T, D * L), channel-major: element d * L + layer.
    """
    first = hidden_states[0]
    if like is None:
        like = first
    joined = like.new_empty((*first.shape, len(hidden_states)))
    for index, state in enumerate(hidden_states):
        state = state.to(like)
        torch.mul(state, torch.rsqrt(state.square().mean(-1, keepdim=True) + EPS), out=joined[..., index])
    return rearrange(joined, "b t d layer -> b t (d layer)")


class FeatureExtractor(nn.Module):
    """One linear projection per stream over all hidden states of a token (spec/03 §3)."""

    def __init__(self, config: TextProjectionConfig) -> None:
        """Build the two projections; sizes are those of the checkpoint."""
        super().__init__()
        self.config = config
        self.video_aggregate_embed = nn.Linear(config.in_features, config.video_features)
        self.audio_aggregate_embed = nn.Linear(config.in_features, config.audio_features)

    def forward(self, hidden_states: Sequence[Tensor] | Tensor,
                mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Project.

        Args:
            hidden_states: Gemma's layers + 1 states (B, T, D) each, on any device.
            mask: (B, T), non-zero for tokens; padding yields the bias alone. None: there is no padding.

        Returns:
            Video features (B, T, Dv) and audio features (B, T, Da).

        Raises:
            OverlayError: the states are not those of the Gemma that the projection was trained with.
        """
        states, width = len(hidden_states), hidden_states[0].shape[-1]
        taken = self.config.caption_channels
        if states * width != self.config.in_features or width != taken:
            raise OverlayError(f"the text encoder gives {states} states of width {width}",
                               f"{self.config.in_features // taken} of width {taken}, which the checkpoint's text "
                               "projection takes",
                               "Use the Gemma 3 that belongs to the checkpoint (Gemma 3 12B for LTX-2.3).")
        joined = normalize_and_concat(hidden_states, self.video_aggregate_embed.bias)
        if mask is not None:
            joined = joined.masked_fill((mask == 0)[..., None], 0)
        made = []
        for layer in (self.video_aggregate_embed, self.audio_aggregate_embed):
            made.append(project(layer, joined * math.sqrt(layer.out_features / width)))
        return made[0], made[1]


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """(…, in) -> (…, out), a piece of the weight's rows at a time: the 22B model's has 1.5 GB.

    Args:
        layer: an `nn.Linear`; one with LoRAs beside its weight (``added``), one whose weight becomes numbers when it is
            used (``numbers``), or one that reads its rows when they are used (``read_rows``).
    """
    parts, start = [], 0
    for weight in _rows_of(layer):
        end = start + len(weight)
        parts.append(functional.linear(x, weight, layer.bias[start:end]))
        start = end
    y = torch.cat(parts, dim=-1)
    if hasattr(layer, "added") and not hasattr(layer, "numbers"):
        return layer.added(x, y)
    return y


def _rows_of(layer: nn.Linear) -> Iterator[Tensor]:
    """Pieces of its weight, in order."""
    pieces = row_pieces(layer.out_features)
    if hasattr(layer, "read_rows"):
        yield from layer.read_rows(pieces)
        return
    weight = layer.weight
    if hasattr(layer, "numbers"):
        weight = layer.numbers()
    for start, end in pieces:
        yield weight[start:end]
