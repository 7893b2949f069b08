"""Muon: momentum whose matrices are made orthogonal, for weights that multiply (Jordan 2024, scaled as Moonlight).

An orthogonal update moves every direction of a matrix alike, also those in which gradients are small. In runs of
minutes that is worth more than it costs: a handful of batched products, matrices of one shape together.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MATCH = 0.2            # root mean square of an update of AdamW, to which ours is scaled


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


class Muon:
    """The update of matrices and of kernels, which are matrices of (out, all the rest).

    Args:
        weights: float32 masters; their ``grad`` is read by `step`.
    """

    def __init__(self, weights: Sequence[Tensor], momentum: float = 0.95, decay: float = 0.01) -> None:
        self.momentum, self.decay = momentum, decay
        self._groups: dict[tuple[int, int], list[Tensor]] = {}
        for weight in weights:
            shape = (weight.shape[0], weight.numel() // weight.shape[0])
            self._groups.setdefault(shape, []).append(weight)
        self._speeds = {shape: torch.zeros(len(group), *shape, device=group[0].device)
                        for shape, group in self._groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move all weights; ``rate`` is what AdamW's would be."""
        for shape, group in self._groups.items():
            gradient = torch.stack([weight.grad.reshape(shape) for weight in group])
            speed = self._speeds[shape]
            speed.lerp_(gradient, 1 - self.momentum)
            update = orthogonal(torch.lerp(gradient, speed, self.momentum)) * (_MATCH * max(shape) ** 0.5 * rate)
            for weight, change in zip(group, update, strict=True):
                weight.mul_(1 - rate * self.decay).sub_(change.view(weight.shape))
