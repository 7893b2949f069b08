"""Feed-forward with a tanh GELU (spec/02 §7)."""
from __future__ import annotations

from torch import Tensor, nn

from ...ops.gelu import linear_gelu


class GeluProjection(nn.Module):
    """Linear, then tanh GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, hidden)."""
        return linear_gelu(x, self.proj)


class FeedForward(nn.Module):
    """width -> 4 width -> width, biased. The empty middle entry keeps the official name ``net.2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.net = nn.ModuleList([GeluProjection(width, wide), nn.Identity(), nn.Linear(wide, width)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return self.net[2](self.net[0](x))
