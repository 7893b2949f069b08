"""Sigma schedules (spec/07 §2). Lists of Python floats that are exact float32 values, ending in 0."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..errors import RequestError

DEFAULT_TOKENS = 4096  # the official pipelines pass no latent, whatever the resolution
BASE_SHIFT, MAX_SHIFT = 0.95, 2.05
BASE_TOKENS, MAX_TOKENS = 1024, 4096
TERMINAL = 0.1


def as_sigmas(values: Sequence[float] | torch.Tensor) -> list[float]:
    """Validate a schedule and round it to float32.

    Raises:
        RequestError: fewer than two values, not strictly falling, or outside [0, 1].
    """
    sigmas = torch.as_tensor(values, dtype=torch.float32).tolist()
    falling = all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))
    if len(sigmas) < 2 or not falling or not 0 <= sigmas[-1] < sigmas[0] <= 1:
        raise RequestError(f"the sigmas are {[round(s, 4) for s in sigmas[:12]]}",
                           "at least two strictly falling values in [0, 1], the last usually 0",
                           "Take the sigmas from a scheduler node for flow models, or leave the input open.")
    return sigmas


def ltx2_schedule(steps: int, tokens: int = DEFAULT_TOKENS, *, terminal: float = TERMINAL,
                  stretch: bool = True) -> list[float]:
    """The LTX2 scheduler: shifted linear sigmas, stretched so that the last non-zero one is ``terminal``.

    Args:
        steps: number of steps, at least 1.
        tokens: video tokens that set the shift. Not clamped.
        terminal: last non-zero sigma, in (0, 1).
        stretch: False leaves the shifted sigmas as they are. With one step there is nothing to stretch; where so
            many tokens and few steps make the last sigma round to 1 the official code gives NaN: here the
            sigmas stay unstretched.
    """
    if steps < 1:
        raise RequestError(f"steps is {steps}", "at least 1", "Use 30, the official number for the dev weights.")
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    shift = math.exp(BASE_SHIFT + slope * (tokens - BASE_TOKENS))
    sigmas = torch.linspace(1.0, 0.0, steps + 1)
    sigmas = torch.where(sigmas > 0, shift / (shift + (1 / sigmas - 1)), 0.0)
    distance = 1 - sigmas[:-1]
    if stretch and steps > 1 and distance[-1] > 0:
        sigmas[:-1] = 1 - distance * ((1 - terminal) / distance[-1])
    return sigmas.tolist()


def linear_quadratic_schedule(steps: int, threshold: float = 0.025) -> list[float]:
    """Linear up to ``threshold`` of the way in the first half of the steps, quadratic after it."""
    if steps == 1:
        return [1.0, 0.0]
    linear = steps // 2
    slope = threshold / linear
    excess = linear - threshold * steps
    quadratic = excess / (linear * (steps - linear) ** 2)
    middle = slope - 2 * excess / (steps - linear) ** 2
    offset = quadratic * linear**2
    noise = [slope * i for i in range(linear)]
    noise += [quadratic * i**2 + middle * i + offset for i in range(linear, steps)]
    return torch.tensor([1 - value for value in noise] + [0.0]).tolist()


def beta_schedule(steps: int, alpha: float = 0.6, beta: float = 0.6) -> list[float]:
    """Beta-distributed times on a grid of 10000, shifted by e^2.37, then 0; needs scipy, as ComfyUI does.

    The grid and the shift are not in the spec: they are what the golden case ``scheduler`` shows.
    """
    import numpy as np
    from scipy.stats import beta as distribution
    grid = 10000
    quantiles = distribution.ppf(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
    times = (np.rint(quantiles * (grid - 1)) + 1) / grid
    shift = math.exp(2.37)
    return torch.tensor([*(shift / (shift + 1 / times - 1)), 0.0], dtype=torch.float32).tolist()
