"""Sigma schedules (spec/07 §2). Lists of Python floats that are exact float32 values, ending in 0."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import gt

import torch

from ..errors import RequestError
from .recipes import DISTILLED_SIGMAS, STAGE_2_SIGMAS, TILED_STAGE_2_SIGMAS
from .solver import SCHEDULES

DEFAULT_TOKENS = 4096  # the official pipelines pass no latent, whatever the resolution
BASE_SHIFT, MAX_SHIFT = 0.95, 2.05
BASE_TOKENS, MAX_TOKENS = 1024, 4096
TERMINAL = 0.1
MAX_LOG_SHIFT = 600.0  # e^600 is still a double; the schedule no longer changes long before
QUADRATIC_THRESHOLD = 0.025
BETA_GRID, BETA_SHIFT = 10000, 2.37  # log of the shift


def as_sigmas(values: Sequence[float] | torch.Tensor) -> list[float]:
    """Validate a schedule and round it to float32.

    Raises:
        RequestError: fewer than two values, not strictly falling, or outside [0, 1].
    """
    sigmas = torch.as_tensor(values, dtype=torch.float32).tolist()
    falling = all(map(gt, sigmas, sigmas[1:]))
    if len(sigmas) < 2 or not falling or not 0 <= sigmas[-1] < sigmas[0] <= 1:
        raise RequestError(f"the sigmas are {[round(s, 4) for s in sigmas[:12]]}",
                           "at least two strictly falling values in [0, 1], the last usually 0",
                           "Take the sigmas from a scheduler node for flow models, or leave the input open.")
    return sigmas


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise RequestError(f"steps is {steps}", "at least "
                                                "1", "Use 30, the official number for the dev weights.")


def ltx2_schedule(steps: int, tokens: int = DEFAULT_TOKENS, *, terminal: float = TERMINAL, stretch: bool = True,
                  base_shift: float = BASE_SHIFT, max_shift: float = MAX_SHIFT) -> list[float]:
    """The LTX2 scheduler: shifted linear sigmas, stretched so that the last non-zero one is ``terminal``.

    With one step there is nothing to stretch. So many tokens that float32 rounds sigmas to 1 make the official
    code give NaN, or the same sigma twice: then the same formula is used in a form without that loss.

    Args:
        steps: number of steps, at least 1.
        tokens: video tokens that set the shift. Not clamped.
        terminal: last non-zero sigma, in (0, 1).
        stretch: False leaves the shifted sigmas as they are.
        base_shift, max_shift: log of the shift at 1024 and at 4096 tokens.
    """
    _check_steps(steps)
    if not 0 < terminal < 1:
        raise RequestError(f"terminal is {terminal}", "a number between 0 and "
                                                      "1", "Use 0.1, the official value.")
    slope = (max_shift - base_shift) / (MAX_TOKENS - BASE_TOKENS)
    shift = math.exp(min(base_shift + slope * (tokens - BASE_TOKENS), MAX_LOG_SHIFT))
    times = torch.linspace(1.0, 0.0, steps + 1)
    sigmas = torch.where(times > 0, shift / (shift + (1 / times - 1)), 0.0)
    if stretch and steps > 1:
        distance = 1 - sigmas[:-1]
        sigmas[:-1] = 1 - distance * ((1 - terminal) / distance[-1])
        if not bool((sigmas[1:] < sigmas[:-1]).all()):
            odds = 1 / times[:-1].double() - 1
            distance = odds / (shift + odds)  # 1 - sigma without the cancellation
            sigmas[:-1] = 1 - distance * ((1 - terminal) / distance[-1])
    return sigmas.tolist()


def linear_quadratic_schedule(steps: int, threshold: float = QUADRATIC_THRESHOLD) -> list[float]:
    """Linear up to ``threshold`` of the way in the first half of the steps, quadratic after it."""
    _check_steps(steps)
    if steps == 1:
        return [1.0, 0.0]
    linear = steps // 2
    slope = threshold / linear
    excess = linear - threshold * steps
    quadratic = excess / (linear * (steps - linear) ** 2)
    middle = slope - 2 * excess / (steps - linear) ** 2
    offset = quadratic * linear**2
    sigmas = []
    for i in range(steps):
        noise = slope * i
        if i >= linear:
            noise = quadratic * i**2 + middle * i + offset
        sigmas.append(1 - noise)
    return torch.tensor([*sigmas, 0.0]).tolist()


def beta_schedule(steps: int, alpha: float = 0.6, beta: float = 0.6) -> list[float]:
    """Beta-distributed times on a grid of 10000, shifted by e^2.37, then 0; needs scipy, as ComfyUI does.

    The grid and the shift are not in the spec: they are what the golden case ``scheduler`` shows. With some
    hundreds of steps two times fall on one grid point; such a step is left out.

    Raises:
        RequestError: no steps, or no scipy.
    """
    _check_steps(steps)
    try:
        import numpy as np
        from scipy.stats import beta as distribution
    except ImportError as error:
        raise RequestError("the schedule beta needs scipy, which is not "
                           "installed", "scipy, as ComfyUI brings it",
                           "pip install scipy, or choose ltx2.") from error
    quantiles = distribution.ppf(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
    times = (np.rint(quantiles * (BETA_GRID - 1)) + 1) / BETA_GRID
    shift = math.exp(BETA_SHIFT)
    sigmas = torch.tensor([*(shift / (shift + 1 / times - 1)), 0.0], dtype=torch.float32).tolist()
    return list(dict.fromkeys(sigmas))


def schedule(name: str, steps: int = 30, **options: float) -> list[float]:
    """A schedule by its name, one of `choices.SCHEDULES`.

    Args:
        steps: of the calculated schedules; the distilled ones are fixed lists (8 and 3 steps).
        options: those of `ltx2_schedule`; the other schedules have none and pass over them.

    Raises:
        RequestError: an unknown name, or a number that cannot be.
    """
    if name not in SCHEDULES:
        raise RequestError(f"schedule is {name!r}", f"one of {', '.join(SCHEDULES)}", "Choose ltx2.")
    made = _MADE[name]
    if not callable(made):
        return as_sigmas(made)
    if name == "ltx2":
        return made(steps, **options)
    return made(steps)


_MADE: dict[str, Callable[..., list[float]] | tuple[float, ...]] = dict(zip(SCHEDULES, (
    ltx2_schedule, linear_quadratic_schedule, beta_schedule, DISTILLED_SIGMAS, STAGE_2_SIGMAS,
    TILED_STAGE_2_SIGMAS), strict=True))
