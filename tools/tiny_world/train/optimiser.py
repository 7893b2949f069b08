"""The optimiser of all training runs: flat storage, so that a step is few kernels and can be recorded.

Small models are limited by the launches of kernels. So masters, their gradients and running means are each one tensor,
with matrices of one shape behind each other. The parameters stay tensors of their own: libraries want them aligned.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tools.tiny_world.train.muon import muon

MEAN_KEEPS = 0.999
NOT_PRODUCTS = r"table|registers|embed_tokens|conv_in|conv_out|patchify|proj_out|conv_pre|conv_post|downs|ups\.\d+$"
MUON_RATE = 2.0       # times the rate of AdamW
BETAS, EPS = (0.9, 0.99), 1e-8


class Group(NamedTuple):
    """Matrices of one shape: where they lie in the flat tensors."""

    start: int
    count: int
    rows: int
    columns: int

    def of(self, flat: Tensor) -> Tensor:
        """The matrices, (count, rows, columns)."""
        size = self.count * self.rows * self.columns
        return flat[self.start:self.start + size].view(self.count, self.rows, self.columns)


def _sorted(named: Sequence[tuple[str, nn.Parameter]]) -> tuple[list[tuple[str, nn.Parameter]], list[Group], int]:
    """Parameters in the order of the flat tensors, groups of matrices, and where the rest begins."""
    shapes: dict[tuple[int, int], list[tuple[str, nn.Parameter]]] = {}
    others: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named:
        if parameter.ndim < 2 or re.search(NOT_PRODUCTS, name):
            others.append((name, parameter))
            continue
        rows = parameter.shape[0]
        shapes.setdefault((rows, parameter.numel() // rows), []).append((name, parameter))
    ordered, groups, start = [], [], 0
    for (rows, columns), members in shapes.items():
        groups.append(Group(start, len(members), rows, columns))
        ordered += members
        start += len(members) * rows * columns
    return ordered + others, groups, start


class Optimiser:
    """Muon and AdamW on float32 masters of modules that compute in another dtype, with a running mean of the weights.

    Gradients gather in place; `step` uses them and sets them to 0.

    Args:
        modules: name -> module; their parameters are turned to ``dtype``.
        rate: highest learning rate; rises over ``warmup`` steps, and falls with what share of the run is done.
        dtype: of the weights that compute.
        slow: pattern of names -> share of the rate, for what AdamW moves: layers whose input is large, for example.
    """

    def __init__(self, modules: Mapping[str, nn.Module], rate: float, dtype: torch.dtype, warmup: int = 100,
                 decay: float = 0.01, clip: float = 1.0, slow: Mapping[str, float] | None = None) -> None:
        self.rate, self.warmup, self.decay, self.clip = rate, warmup, decay, clip
        named = [(f"{part}.{name}", p) for part, module in modules.items() for name, p in module.named_parameters()
                 if p.requires_grad]
        ordered, self._groups, self._rest = _sorted(named)
        self.names = [name for name, _ in ordered]
        self.parameters = [p for _, p in ordered]
        self._flat = torch.cat([p.detach().float().flatten() for p in self.parameters])
        self._flat_mean = self._flat.clone()
        self._flat_gradient = torch.zeros_like(self._flat)
        self._speed = torch.zeros_like(self._flat)                    # of Muon and of AdamW
        self._square = torch.zeros_like(self._flat[self._rest:])
        self.masters, self.mean = self._views(self._flat), self._views(self._flat_mean)
        self._arriving = self._views(self._flat_gradient)
        for p, master in zip(self.parameters, self.masters, strict=True):
            p.data = master.to(dtype, copy=True)
            p.grad = torch.zeros_like(p)
        self._weights = [p.data for p in self.parameters]
        self._gradients = [p.grad for p in self.parameters]
        shares = torch.ones_like(self._flat)
        for name, share in zip(self.names, self._views(shares), strict=True):
            for pattern, factor in (slow or {}).items():
                if re.search(pattern, name):
                    share.fill_(factor)
        self._shares = shares[self._rest:].clone()
        self._held: tuple[Tensor, Tensor] | None = None
        self.steps = 0
        self._count = torch.zeros((), device=self._flat.device)
        self._now = torch.zeros((), device=self._flat.device)

    def _views(self, flat: Tensor) -> list[Tensor]:
        views, start = [], 0
        for p in self.parameters:
            views.append(flat[start:start + p.numel()].view(p.shape))
            start += p.numel()
        return views

    def aim(self, done: float) -> None:
        """Set the rate of the coming step; ``done`` in [0, 1] is the share of the run that is over."""
        self._now.fill_(self.rate * min(1.0, (self.steps + 1) / self.warmup) * _fall(done))
        self.steps += 1

    def step(self, done: float) -> None:
        """`aim`, then `update`."""
        self.aim(done)
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Move the weights by their gradients; no number leaves the device, so that this can be recorded."""
        torch._foreach_copy_(self._arriving, self._gradients)
        torch._foreach_zero_(self._gradients)
        gradient = self._flat_gradient
        norm = gradient.norm()
        share = torch.where(norm.isfinite(), (self.clip / (norm + 1e-6)).clamp(max=1.0), 0.0)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0) * share
        self._count += 1
        for group in self._groups:
            muon(group.of(self._flat), group.of(gradient), group.of(self._speed), MUON_RATE * self._now, self.decay)
        self._adam(gradient[self._rest:])
        if self._held is not None:
            self._flat.copy_(torch.where(*self._held, self._flat))
        torch._foreach_copy_(self._weights, self.masters)
        keep = ((self._count + 1) / (self._count + 10)).clamp(max=MEAN_KEEPS)
        self._flat_mean.lerp_(self._flat, 1 - keep)

    @torch.no_grad()
    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep marked weights as they are now, whatever is learned; names are those of `names`."""
        flat = torch.zeros_like(self._flat, dtype=torch.bool)
        for name, mask in zip(self.names, self._views(flat), strict=True):
            if name in masks:
                mask.copy_(masks[name])
        self._held = flat, self._flat.clone()

    def _adam(self, gradient: Tensor) -> None:
        weights, speed = self._flat[self._rest:], self._speed[self._rest:]
        speed.lerp_(gradient, 1 - BETAS[0])
        self._square.lerp_(gradient.square(), 1 - BETAS[1])
        first, second = (1 - torch.exp(self._count * math.log(beta)) for beta in BETAS)
        weights.sub_(self._now * self._shares * (speed / first) / ((self._square / second).sqrt() + EPS))

    def tensors(self) -> dict[str, Tensor]:
        """Running means of the weights by name, float32 on the CPU."""
        return dict(zip(self.names, self._views(self._flat_mean.cpu()), strict=True))

    @torch.no_grad()
    def use_mean(self) -> None:
        """Put the running means into the modules."""
        torch._foreach_copy_(self._weights, self.mean)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> int:
        """Continue from saved means; returns how many of the parameters were there."""
        found = 0
        for name, master in zip(self.names, self.masters, strict=True):
            if name in tensors and tensors[name].shape == master.shape:
                master.copy_(tensors[name])
                found += 1
        self._flat_mean.copy_(self._flat)
        torch._foreach_copy_(self._weights, self.masters)
        return found


def _fall(done: float) -> float:
    """Constant for the first 60 % of a run, then down to 2 %."""
    return 1.0 if done < 0.6 else 0.02 + 0.98 * (1 - (min(done, 1.0) - 0.6) / 0.4)
