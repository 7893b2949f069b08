"""Guidance: CFG + STG + modality, with rescale, on x0 predictions (spec/07 §4)."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GuiderParams:
    """Guidance of one stream. The defaults switch everything off.

    Attributes:
        cfg: classifier-free guidance; 1 is off.
        stg: spatio-temporal guidance (self attention skipped in ``stg_blocks``); 0 is off.
        modality: guidance away from a result without cross-modal attention; 1 is off.
        rescale: 0 to 1, how far the result's std is pulled to the conditional one.
        stg_blocks: blocks whose self attention the perturbed pass skips, counted from 0.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    stg_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("cfg", "stg", "modality", "rescale"):
            if not math.isfinite(getattr(self, name)):
                raise RequestError(f"guidance {name} is {getattr(self, name)}", "a finite number", "Use the default.")
        if not 0 <= self.rescale <= 1:
            raise RequestError(f"guidance rescale is {self.rescale}", "a number from 0 to 1", "Use 0.7.")
        if self.stg and not self.stg_blocks:
            raise RequestError(f"STG scale is {self.stg} and no STG block is named", "at least one block",
                               "Name the block 28, the official one, or set the scale to 0.")

    @property
    def uses_cfg(self) -> bool:
        """Whether the unconditioned pass is needed."""
        return not math.isclose(self.cfg, 1.0)

    @property
    def uses_stg(self) -> bool:
        """Whether the perturbed pass is needed."""
        return not math.isclose(self.stg, 0.0, abs_tol=1e-9)

    @property
    def uses_modality(self) -> bool:
        """Whether the pass without cross-modal attention is needed."""
        return not math.isclose(self.modality, 1.0)


@dataclass(frozen=True)
class Guidance:
    """Guidance of both streams. None for a stream: it is not guided, and the unconditioned pass keeps its
    positive context (spec: goldens' README, audio to video)."""

    video: GuiderParams | None = None
    audio: GuiderParams | None = None

    @property
    def streams(self) -> tuple[GuiderParams, GuiderParams]:
        """Parameters of video and audio, off where there are none."""
        return self.video or GuiderParams(), self.audio or GuiderParams()


def combine(params: GuiderParams, cond: Tensor, uncond: Tensor | None = None, perturbed: Tensor | None = None,
            modality: Tensor | None = None) -> Tensor:
    """Guided prediction of one stream, in float32, returned in ``cond``'s dtype.

    c + (cfg - 1)(c - u) + stg (c - p) + (modality - 1)(c - m), then rescaled by r std(c) / std(pred) + 1 - r with
    the unbiased std over the whole tensor (batch and conditioned tokens included). A missing pass adds nothing.

    Args:
        cond, uncond, perturbed, modality: x0 predictions (B, N, C) of the passes.
    """
    base = cond.float()
    guided = base
    for scale, other in ((params.cfg - 1, uncond), (params.stg, perturbed), (params.modality - 1, modality)):
        if other is not None and scale:
            guided = guided + scale * (base - other.float())
    if params.rescale:
        guided = guided * (params.rescale * (base.std() / guided.std()) + (1 - params.rescale))
    return guided.to(cond.dtype)
