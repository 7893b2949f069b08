"""Guidance of one stream: CFG, STG, modality, rescale, skipped steps, CFG-Zero*, APG, NAG (spec/07 §4).

Imports no torch; the arithmetic is in `sampling.combine`, and NAG's in the transformer.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import RequestError


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


@dataclass(frozen=True)
class Apg:
    """Adaptive projected guidance (Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance
    Scales in Diffusion Models"): the CFG difference is averaged over steps, limited, and its part parallel to the
    conditional prediction weakened. eta 1, norm_threshold 0 and momentum 0 is plain CFG.

    Attributes:
        eta: share of the parallel part that stays; 0 is the paper's, 1 keeps all.
        norm_threshold: largest L2 norm of a sample's difference; 0 is off. It grows with the number of values, so
            the paper's 2.5 to 15 are not those of video latents.
        momentum: weight of the earlier differences, in (-1, 1); the paper's is negative, -0.5. 0 is off.
    """

    eta: float = 0.0
    norm_threshold: float = 0.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.eta):
            raise RequestError(f"APG eta is {self.eta}", "a finite number, usually 0 to 1", "Use 0.")
        if not (math.isfinite(self.norm_threshold) and self.norm_threshold >= 0):
            raise RequestError(f"APG norm threshold is {self.norm_threshold}", "0 (off) or more", "Use 0.")
        if not -1 < self.momentum < 1:
            raise RequestError(f"APG momentum is {self.momentum}", "a number between -1 and 1", "Use -0.5.")


@dataclass(frozen=True)
class GuiderParams:
    """Guidance of one stream. The defaults switch everything off.

    Attributes:
        cfg: classifier-free guidance; 1 is off.
        stg: spatio-temporal guidance (self attention skipped in ``stg_blocks``); 0 is off.
        modality: guidance away from a result without cross-modal attention; 1 is off.
        rescale: 0 to 1, how far the result's std is pulled to the conditional one.
        stg_blocks: blocks whose self attention the perturbed pass skips, counted from 0.
        skip_step: k: only the steps 0, k + 1, 2 (k + 1), … are computed, the others reuse the last guided result.
        cfg_star: CFG-Zero* (Fan et al. 2025): CFG with the unconditioned prediction scaled to fit the conditional.
        apg: adaptive projected guidance in the place of plain CFG; acts where ``cfg`` is not 1.
        nag: normalized attention guidance; acts in the conditional pass, so also where nothing else is on.
    """

    cfg: float = 1.0
    stg: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    skip_step: int = 0
    cfg_star: bool = False
    apg: Apg | None = None
    nag: Nag | None = None

    def __post_init__(self) -> None:
        for name in ("cfg", "stg", "modality", "rescale"):
            if not math.isfinite(getattr(self, name)):
                raise RequestError(f"guidance {name} is {getattr(self, name)}", "a finite "
                                                                                "number", "Use the default.")
        if not 0 <= self.rescale <= 1:
            raise RequestError(f"guidance rescale is {self.rescale}", "a number from 0 to 1", "Use 0.7.")
        if self.stg and not self.stg_blocks:
            raise RequestError(f"STG scale is {self.stg} and no STG block is named", "at least one block",
                               "Name the block 28, the official one, or set the scale to 0.")
        if self.skip_step < 0:
            raise RequestError(f"skip_step is {self.skip_step}", "0 (every step) or more", "Use 0.")
        if self.cfg_star and self.apg is not None:
            raise RequestError("CFG-Zero* and APG are both asked "
                               "for", "one of them: both change the CFG difference",
                               "Switch one off.")

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

    @property
    def further_passes(self) -> frozenset[str]:
        """Names of the passes that are needed beside the conditional one."""
        needed = set()
        if self.uses_cfg:
            needed.add("uncond")
        if self.uses_stg:
            needed.add("perturbed")
        if self.uses_modality:
            needed.add("modality")
        return frozenset(needed)

    def skips(self, step: int) -> bool:
        """Whether a step reuses the last result."""
        return step % (self.skip_step + 1) != 0
