"""Which solver runs a stage, with what options, and the noise that it injects (spec/07 §5)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..plan.solver import SOLVERS, Solver
from . import solvers
from .denoiser import Denoiser
from .state import StatePair, Streams, map_streams

__all__ = ["SOLVERS", "Solver", "solve", "standardised_noise"]

STEP_SEED, SUBSTEP_SEED = -1, 9999  # official generators of res_2s: the same noise for every seed of the user


def standardised_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """SDE noise of res_2s: normal, then mean 0 and std 1 over all values, then over tokens and channels of each sample.

    Args:
        like: tokens (B, N, C).
        generator: where it lives the noise is drawn; float64 (float32 where a device has none).
    """
    dtype = solvers.widest(like.device, generator.device)
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=dtype).to(like.device)
    noise = (noise - noise.mean()) / noise.std()
    return (noise - noise.mean(dim=(-2, -1), keepdim=True)) / noise.std(dim=(-2, -1), keepdim=True)


def _noise_of_res_2s(like: Streams, device: torch.device) -> Callable[[str], Streams]:
    """"step" or "substep" -> the next noise of that kind, drawn on a device."""
    sources = {
        "step": torch.Generator(device).manual_seed(STEP_SEED),
        "substep": torch.Generator(device).manual_seed(SUBSTEP_SEED),
    }

    def noise(kind: str) -> Streams:
        return map_streams(lambda part: standardised_noise(part, sources[kind]), like)

    return noise


def solve(solver: Solver, denoiser: Denoiser, states: StatePair, x: Streams, sigmas: Sequence[float],
          generator: torch.Generator, draw: Callable[[tuple[int, ...]], Tensor],
          on_step: Callable[[int, Streams], None] | None = None) -> Streams:
    """Run a stage from noisy tokens to clean ones.

    Args:
        solver: which, and its options.
        denoiser: guided x0 at one sigma.
        states: of both streams; their conditioned tokens are held after each model call and each new noise.
        x: noisy tokens (video, audio), None for an absent stream.
        sigmas: falling, the last usually 0.
        generator: the run's; the noise of res_2s is drawn on its device.
        draw: noise of the user's seed in a token shape, for the ancestral solvers: video, then audio, each step.
        on_step: called with (step, x0) after each step.
    """
    def blend(streams: Streams) -> Streams:
        return map_streams(lambda state, part: state.blend(part), states, streams)

    def model(streams: Streams, sigma: float, step: int) -> Streams:
        return blend(denoiser(streams, sigma, step))

    def pair(streams: Streams, sigma: float, step: int) -> tuple[Streams, Streams]:
        guided, uncond = denoiser.with_uncond(streams, sigma, step)
        return blend(guided), blend(uncond)

    def noise() -> Streams:
        return map_streams(lambda part: draw(tuple(part.shape)), x)

    if solver.name == "gradient_estimation":
        return solvers.gradient_estimation(model, x, sigmas, on_step, gamma=solver.gamma)
    if solver.name == "res_2s":
        own_noise = _noise_of_res_2s(x, generator.device)
        return solvers.res_2s(model, x, sigmas, on_step, blend=blend, eta=solver.used_eta, noise=own_noise)
    options = {"blend": blend, "noise": noise, "eta": solver.used_eta, "s_noise": solver.s_noise}
    if solver.name == "euler_ancestral":
        return solvers.euler_ancestral(model, x, sigmas, on_step, **options)
    if solver.name == "euler_ancestral_cfg_pp":
        return solvers.euler_ancestral_cfg_pp(pair, x, sigmas, on_step, **options)
    return solvers.euler(model, x, sigmas, on_step)
