"""Normalized attention guidance in the text attention (Chen et al. 2025, "Normalized Attention Guidance: Universal
Negative Guidance for Diffusion Models"). Imports no torch: settings are made before anything is loaded."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ...errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Nag:
    """Settings of one stream; the defaults are the paper's for distilled Flux models.

    Attributes:
        scale: how far the attention is pushed away from the negative prompt's; 1 changes nothing.
        tau: largest allowed growth of a token's L1 norm, above 0.
        alpha: share of the guided result, 0 (off) to 1.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 1):
            raise RequestError(f"NAG scale is {self.scale}", "a number of 1 (off) or more", "Use 5.")
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise RequestError(f"NAG tau is {self.tau}", "a number above 0", "Use 2.5.")
        if not 0 <= self.alpha <= 1:
            raise RequestError(f"NAG alpha is {self.alpha}", "a number from 0 to 1", "Use 0.25.")

    def blend(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Guided attention: extrapolated, its growth limited, blended with the positive one.

        z = z+ + (scale - 1)(z+ - z-); then z min(1, tau |z+|_1 / |z|_1) per token; then alpha z + (1 - alpha) z+.
        The norms run over all heads of a token in float32.

        Args:
            positive, negative: (B, N, heads head_dim), attention to the positive and to the negative prompt.

        Returns:
            (B, N, heads head_dim) in their dtype.
        """
        guided = positive + (self.scale - 1) * (positive - negative)
        norm, before = (part.float().abs().sum(-1, keepdim=True) for part in (guided, positive))
        limit = (self.tau * before / norm.clamp(min=1e-20)).clamp(max=1)
        return positive.lerp(guided * limit.to(guided.dtype), self.alpha)


class NagContext(NamedTuple):
    """NAG of one stream in one pass: settings and the negative prompt (B, S, width of the stream)."""

    nag: Nag
    context: Tensor
