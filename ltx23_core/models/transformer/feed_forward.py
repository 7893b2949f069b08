"""Feed-forward with a tanh GELU (spec/02 §7)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from ...ops.codes import Coded, codes_of
from ...ops.gelu import linear_gelu


class GeluProjection(nn.Module):
    """Linear, then tanh GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor | Coded, codes: torch.dtype | None = None) -> Tensor | Coded:
        """(…, width) -> (…, hidden), as codes of a dtype where one is given."""
        return linear_gelu(x, self.proj, codes)


class FeedForward(nn.Module):
    """width -> 4 width -> width, biased. The empty middle entry keeps the official name ``net.2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.net = nn.ModuleList([GeluProjection(width, wide), nn.Identity(), nn.Linear(wide, width)])

    @property
    def codes(self) -> torch.dtype | None:
        """The dtype of codes (`ops.codes`) in which it takes its input; None: numbers."""
        return codes_of((self.net[0].proj,))

    def forward(self, x: Tensor | Coded) -> Tensor:
        """(…, width) -> (…, width)."""
        return self.net[2](self.net[0](x, codes_of((self.net[2],))))
