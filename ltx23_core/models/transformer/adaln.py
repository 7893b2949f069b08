"""Timestep embedding and the AdaLN heads (spec/02 §3)."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

SINUSOID_WIDTH = 256


def sinusoid(timesteps: Tensor) -> Tensor:
    """[cos, sin] of float32 timesteps (…,) times 128 frequencies exp(-ln(1e4) i / 128): float32 (…, 256)."""
    half = SINUSOID_WIDTH // 2
    exponent = -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[..., None].float() * exponent.exp()
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoid (…, 256) -> linear, SiLU, linear -> (…, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, embedding: Tensor) -> Tensor:
        """(…, 256) -> (…, width)."""
        return self.linear_2(silu(self.linear_1(embedding)))


class _Embedding(nn.Module):
    """Only a level of the official parameter names: ``emb.timestep_embedder``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)


class AdaLayerNormSingle(nn.Module):
    """Timesteps -> modulation rows.

    Args:
        width: channels of one row.
        rows: rows per timestep.
    """

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = _Embedding(width)
        self.linear = nn.Linear(width, rows * width)

    def forward(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled float32 timesteps (B, U) -> rows (B, U, rows * width) and embedding (B, U, width)."""
        embedded = self.emb.timestep_embedder(sinusoid(timesteps).to(self.linear.bias.dtype))
        return self.linear(silu(embedded)), embedded
