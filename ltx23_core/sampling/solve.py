"""Which solver runs a stage, with what options, and the noise that it injects (spec/07 §5)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RequestError
from . import solvers
from .denoiser import Denoiser
from .latents import StatePair, Streams, map_streams

SOLVERS = ("euler", "res_2s", "gradient_estimation")
STEP_SEED, SUBSTEP_SEED = -1, 9999  # official generators of res_2s: the same noise for every seed of the user


@dataclass(frozen=True)
class Solver:
    """A solver and its options.

    Attributes:
        name: one of `SOLVERS`.
        gamma: of gradient_estimation: how far the velocity is extrapolated; official 2.
    """

    name: str = "euler"
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.name not in SOLVERS:
            raise RequestError(f"solver is {self.name!r}", f"one of {', '.join(SOLVERS)}", "Choose euler.")


def standardised_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """SDE noise of res_2s: normal, then mean 0 and std 1 over all values, then over tokens and channels of each sample.

    Args:
        like: tokens (B, N, C).
        generator: where it lives the noise is drawn; float64 (float32 where a device has none).
    """
    dtype = torch.float32 if "mps" in (like.device.type, generator.device.type) else torch.float64
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=dtype).to(like.device)
    noise = (noise - noise.mean()) / noise.std()
    return (noise - noise.mean(dim=(-2, -1), keepdim=True)) / noise.std(dim=(-2, -1), keepdim=True)


def solve(solver: Solver, denoiser: Denoiser, states: StatePair, x: Streams, sigmas: Sequence[float],
          generator: torch.Generator, on_step: Callable[[int, Streams], None] | None = None) -> Streams:
    """Run a stage from noisy tokens to clean ones.

    Args:
        solver: which, and its options.
        denoiser: guided x0 at one sigma.
        states: of both streams; their conditioned tokens are held after each model call.
        x: noisy tokens (video, audio), None for an absent stream.
        sigmas: falling, the last usually 0.
        generator: the run's; solvers that add noise of the user's seed draw from it.
        on_step: called with (step, x0) after each step.
    """
    def blend(streams: Streams) -> Streams:
        return map_streams(lambda state, part: state.blend(part), states, streams)

    def model(streams: Streams, sigma: float, step: int) -> Streams:
        return blend(denoiser(streams, sigma, step))

    if solver.name == "gradient_estimation":
        return solvers.gradient_estimation(model, x, sigmas, on_step, gamma=solver.gamma)
    if solver.name == "res_2s":
        sources = {kind: torch.Generator(generator.device).manual_seed(seed)
                   for kind, seed in (("step", STEP_SEED), ("substep", SUBSTEP_SEED))}
        return solvers.res_2s(model, x, sigmas, on_step, blend=blend, noise=lambda kind: map_streams(
            lambda part: standardised_noise(part, sources[kind]), x))
    return solvers.euler(model, x, sigmas, on_step)
