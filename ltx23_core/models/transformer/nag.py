"""Normalized attention guidance in the text attention (Chen et al. 2025, "Normalized Attention Guidance: Universal
Negative Guidance for Diffusion Models")."""
from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class NagNumbers(Protocol):
    """What of `plan.guider.Nag` the arithmetic needs."""

    scale: float
    tau: float
    alpha: float


def push(numbers: NagNumbers, positive: Tensor, negative: Tensor) -> Tensor:
    """Guided attention: extrapolated, its growth limited, blended with the positive one.

    z = z+ + (scale - 1)(z+ - z-); then z min(1, tau |z+|_1 / |z|_1) per token; then alpha z + (1 - alpha) z+.
    The norms run over all heads of a token in float32.

    Args:
        numbers: scale, tau and alpha.
        positive, negative: (B, N, heads head_dim), attention to the positive and to the negative prompt.

    Returns:
        (B, N, heads head_dim) in their dtype.
    """
    guided = positive + (numbers.scale - 1) * (positive - negative)
    norm = guided.float().abs().sum(-1, keepdim=True)
    before = positive.float().abs().sum(-1, keepdim=True)
    limit = (numbers.tau * before / norm.clamp(min=1e-20)).clamp(max=1)
    return positive.lerp(guided * limit.to(guided.dtype), numbers.alpha)


class NagContext(NamedTuple):
    """NAG of one stream in one pass: its numbers and the negative prompt (B, S, width of the stream)."""

    nag: NagNumbers
    context: Tensor
