"""Muon: momentum whose matrices are made orthogonal, for weights that multiply (Jordan 2024, scaled as Moonlight).

An orthogonal update moves every direction of a matrix alike, also those in which gradients are small. In runs of
minutes that is worth more than it costs: a handful of batched products, matrices of one shape together.
"""
from __future__ import annotations

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MATCH = 0.2            # root mean square of an update of AdamW, to which ours is scaled
MOMENTUM = 0.95


def orthogonal(x: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly, of a batch (B, rows, columns): Newton-Schulz iterations."""
    wide = x.shape[-2] <= x.shape[-1]
    y = x.bfloat16() if x.is_cuda else x.float()
    y = y if wide else y.mT
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return (y if wide else y.mT).to(x.dtype)


def muon(weights: Tensor, gradients: Tensor, speeds: Tensor, rate: Tensor, decay: float) -> None:
    """Move a batch of matrices of one shape, (B, rows, columns) float32 each, in place.

    Args:
        weights, gradients: of the matrices.
        speeds: running mean of gradients; begins at 0.
        rate: of AdamW, of no dimension.
        decay: of the weights.
    """
    speeds.lerp_(gradients, 1 - MOMENTUM)
    update = orthogonal(torch.lerp(gradients, speeds, MOMENTUM)) * (_MATCH * max(weights.shape[1:]) ** 0.5 * rate)
    weights.mul_(1 - rate * decay).sub_(update)
