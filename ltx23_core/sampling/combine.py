"""The arithmetic of guidance on x0 predictions (spec/07 §4; APG and CFG-Zero*: golden case ``guider_variants``)."""
from __future__ import annotations

from torch import Tensor

from ..plan.guider import Apg, GuiderParams


def projection(of: Tensor, onto: Tensor) -> Tensor:
    """The part of each sample (B, …) that is parallel to another tensor of the same shape."""
    axes = tuple(range(1, of.ndim))
    return (of * onto).sum(axes, keepdim=True) / (onto * onto).sum(axes, keepdim=True) * onto


class RunningDifference:
    """The momentum of APG: what a run remembers of one stream's earlier CFG differences."""

    def __init__(self) -> None:
        self._value: Tensor | None = None

    def update(self, difference: Tensor, momentum: float) -> Tensor:
        """difference + momentum * (what the last call returned)."""
        if not momentum:
            return difference
        if self._value is not None:
            difference = difference + momentum * self._value
        self._value = difference
        return difference


def apg_difference(cond: Tensor, uncond: Tensor, apg: Apg,
                   running: RunningDifference | None = None) -> Tensor:
    """The CFG difference of adaptive projected guidance.

    Momentum, then the limit of the norm, then the part orthogonal to ``cond`` plus ``eta`` times the parallel one.
    Every sample of a batch has its own norm and projection (the official code is right for one sample only). Of
    latents (B, C, F, H, W) every channel has its own norm, as officially; of tokens (B, N, C) the whole sample.

    Args:
        cond, uncond: float32 predictions of one shape.
        running: of the stream; needed for momentum across calls.
    """
    difference = (running or RunningDifference()).update(cond - uncond, apg.momentum)
    if apg.norm_threshold:
        axes = tuple(range(max(1, cond.ndim - 3), cond.ndim))
        norm = difference.pow(2).sum(axes, keepdim=True).sqrt()
        difference = difference * (apg.norm_threshold / norm).clamp(max=1)
    parallel = projection(difference, cond)
    return difference - parallel + apg.eta * parallel


def cfg_difference(params: GuiderParams, cond: Tensor, uncond: Tensor,
                   running: RunningDifference | None = None) -> Tensor:
    """What (cfg - 1) multiplies: c - u, its APG form, or CFG-Zero*'s c - u' with u' fitted to c per sample."""
    if params.apg is not None:
        return apg_difference(cond, uncond, params.apg, running)
    if params.cfg_star:
        return cond - projection(cond, uncond)
    return cond - uncond


def combine(params: GuiderParams, cond: Tensor, uncond: Tensor | None = None, perturbed: Tensor | None = None,
            modality: Tensor | None = None, running: RunningDifference | None = None) -> Tensor:
    """Guided prediction of one stream, in float32, returned in ``cond``'s dtype.

    c + (cfg - 1)(c - u) + stg (c - p) + (modality - 1)(c - m), then rescaled by r std(c) / std(pred) + 1 - r with
    the unbiased std over the whole tensor (batch and conditioned tokens included, as officially). A missing pass
    adds nothing.

    Args:
        cond, uncond, perturbed, modality: x0 predictions (B, N, C) of the passes.
        running: the stream's memory of earlier differences, for APG with momentum.
    """
    base = cond.float()
    guided = base
    if uncond is not None and params.uses_cfg:
        guided = guided + (params.cfg - 1) * cfg_difference(params, base, uncond.float(), running)
    for scale, other in ((params.stg, perturbed), (params.modality - 1, modality)):
        if other is not None and scale:
            guided = guided + scale * (base - other.float())
    if params.rescale:
        guided = guided * (params.rescale * (base.std() / guided.std()) + (1 - params.rescale))
    return guided.to(cond.dtype)
