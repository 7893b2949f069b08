"""Names and options of solvers and schedules. Imports no torch, so lists of choices are there before it is loaded."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RequestError

RES_2S_ETA = 0.5
# Name -> eta where none is given: the official one, None where the solver adds no noise.
SOLVERS: dict[str, float | None] = {"euler": None, "euler_ancestral": 1.0, "euler_ancestral_cfg_pp": 1.0,
                                    "res_2s": RES_2S_ETA, "gradient_estimation": None}
SCHEDULES = ("ltx2", "linear_quadratic", "beta", "distilled", "distilled_stage_2", "distilled_stage_2_tiled")


@dataclass(frozen=True)
class Solver:
    """A solver and its options.

    Attributes:
        name: one of `SOLVERS`.
        gamma: of gradient_estimation: how far the velocity is extrapolated; official 2, 1 is Euler.
        eta: of the ancestral solvers and res_2s: share of new noise in each step, 0 to 1; None: the official one
            (1, and 0.5 for res_2s).
        s_noise: of the ancestral solvers: factor on the new noise; official 1.
    """

    name: str = "euler"
    gamma: float = 2.0
    eta: float | None = None
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise RequestError(f"solver is {self.name!r}", f"one of {', '.join(SOLVERS)}", "Choose euler.")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise RequestError(f"solver eta is {self.eta}", "a number from 0 to "
                                                            "1", "Leave it at the default.")
        for name in ("gamma", "s_noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise RequestError(f"solver {name} is {value}", "a number of 0 or "
                                                                "more", "Leave it at the default.")

    @property
    def used_eta(self) -> float:
        """eta, or the official one of this solver."""
        if self.eta is None:
            return SOLVERS[self.name] or 0.0
        return self.eta

    @property
    def uses_uncond(self) -> bool:
        """Whether each step needs the unconditioned prediction, whatever the CFG."""
        return self.name == "euler_ancestral_cfg_pp"

    def noise_draws(self, sigmas: Sequence[float]) -> int:
        """How often a stage takes noise of the user's seed after its start: what a resumed run draws again."""
        ancestral = self.name in ("euler_ancestral", "euler_ancestral_cfg_pp")
        if not ancestral:
            return 0
        return sum(sigma > 0 for sigma in sigmas[1:])
