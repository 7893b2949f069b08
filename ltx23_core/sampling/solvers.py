"""Solvers: free functions from noisy tokens and a schedule to clean tokens (spec/07 §5).

All take ``model(x, sigma, step)``, which returns the x0 predictions with conditioned tokens held, and call
``on_step(step, x0)`` after each step. Scalars stay Python floats, so no step waits for the device.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..plan.solver import RES_2S_ETA
from .state import Streams, map_streams

Model = Callable[[Streams, float, int], Streams]
OnStep = Callable[[int, Streams], None]
PairModel = Callable[[Streams, float, int], tuple[Streams, Streams]]
Blend = Callable[[Streams], Streams]
Noise = Callable[[], Streams]

RES_2S_LAST_SIGMA = 0.0011
CFG_PP_ALPHA_MIN = 2.0**-23  # eps of float32


def widest(*devices: torch.device) -> torch.dtype:
    """float64, or float32 where one of the devices has none."""
    for device in devices:
        if device.type == "mps":
            return torch.float32
    return torch.float64


def velocity_of(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """(x - x0) / sigma in float32, in x's dtype."""
    return ((x.float() - denoised.float()) / sigma).to(x.dtype)


def euler_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One Euler step of the probability flow, in float32 with the velocity in x's dtype."""
    return (x.float() + velocity_of(x, denoised, sigma).float() * (sigma_next - sigma)).to(x.dtype)


def euler(model: Model, x: Streams, sigmas: Sequence[float], on_step: OnStep | None = None) -> Streams:
    """Euler, one model call a step (spec/07 §5)."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma, step)
        x = map_streams(lambda a, d, s=sigma, n=sigma_next: euler_step(a, d, s, n), x, denoised)
        if on_step is not None:
            on_step(step, denoised)
    return x


def gradient_estimation(model: Model, x: Streams, sigmas: Sequence[float], on_step: OnStep | None = None, *,
                        gamma: float = 2.0) -> Streams:
    """Euler with the velocity extrapolated from the step before: gamma (v - v') + v' (spec/07 §5).

    v' is the uncorrected velocity of the previous step; a last step to sigma 0 returns x0 itself.
    """
    previous: Streams = (None, None)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma, step)
        velocity = map_streams(lambda a, d, s=sigma: velocity_of(a, d, s), x, denoised)
        if sigma_next == 0:
            x = denoised
        else:
            used, span = velocity, sigma_next - sigma
            if step > 0:
                used = map_streams(lambda v, p: gamma * (v - p) + p, velocity, previous)
            x = map_streams(lambda a, v, dt=span: (a.float() + v.float() * dt).to(a.dtype), x, used)
        previous = velocity
        if on_step is not None:
            on_step(step, denoised)
    return x


def ancestral_step(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float, noise: Tensor, *,
                   eta: float = 1.0, s_noise: float = 1.0) -> Tensor:
    """Ancestral Euler for flow models: step down to a lower sigma, then renoise to ``sigma_next``.

    sigma_down = next (1 + (next / sigma - 1) eta), alpha = 1 - sigma (golden case ``steps``); sigma_next 0 gives x0.
    """
    if sigma_next == 0:
        return denoised
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    ratio = (1 - sigma_next) / (1 - down)
    renoise = math.sqrt(max(sigma_next**2 - (down * ratio) ** 2, 0.0))
    moved = torch.lerp(denoised.float(), x.float(), down / sigma)
    return (moved * ratio + noise.float() * (s_noise * renoise)).to(x.dtype)


def euler_ancestral(model: Model, x: Streams, sigmas: Sequence[float], on_step: OnStep | None = None, *,
                    blend: Blend, noise: Noise, eta: float = 1.0, s_noise: float = 1.0) -> Streams:
    """Ancestral Euler (golden case ``ancestral``; the official distilled pipeline of model version 2.5 uses it).

    Args:
        blend: holds conditioned tokens; applied again after each noise injection.
        noise: draws normal noise of both streams; once a step, not in a last step to sigma 0.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma, step)
        if sigma_next == 0:
            x = denoised
        else:
            x = blend(map_streams(
                lambda a, d, n, s=sigma, t=sigma_next: ancestral_step(a, d, s, t, n, eta=eta, s_noise=s_noise),
                x, denoised, noise()))
        if on_step is not None:
            on_step(step, denoised)
    return x


def cfg_pp_step(x: Tensor, denoised: Tensor, uncond: Tensor, sigma: float, sigma_next: float,
                noise: Tensor, *, eta: float = 1.0, s_noise: float = 1.0) -> Tensor:
    """Ancestral CFG++ Euler: from the guided x0 along the direction of the unconditioned one (golden ``ancestral``).

    In the DDIM parameterisation sigma / alpha with alpha = 1 - sigma, kept above float32's eps: so at sigma 1 the
    direction is x itself. sigma_next 0 gives the guided x0.
    """
    if sigma_next == 0:
        return denoised
    alpha = max(1 - sigma, CFG_PP_ALPHA_MIN)
    alpha_next = max(1 - sigma_next, CFG_PP_ALPHA_MIN)
    ratio, target = sigma / alpha, sigma_next / alpha_next
    up = min(target, eta * math.sqrt(max(target**2 * (ratio**2 - target**2) / ratio**2, 0.0)))
    down = alpha_next * math.sqrt(max(target**2 - up**2, 0.0))
    direction = (x.float() - alpha * uncond.float()) / sigma
    moved = alpha_next * denoised.float() + down * direction
    return (moved + noise.float() * (alpha_next * up * s_noise)).to(x.dtype)


def euler_ancestral_cfg_pp(model: PairModel, x: Streams, sigmas: Sequence[float],
                           on_step: OnStep | None = None, *, blend: Blend, noise: Noise, eta: float = 1.0,
                           s_noise: float = 1.0) -> Streams:
    """Ancestral CFG++ Euler; ``model`` gives (guided x0, unconditioned x0), both with conditioned tokens held.

    With eta 0 it is plain CFG++ Euler, which still draws its noise, as officially. See `euler_ancestral`.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised, uncond = model(x, sigma, step)
        if sigma_next == 0:
            x = denoised
        else:
            x = blend(map_streams(
                lambda a, d, u, n, s=sigma, t=sigma_next: cfg_pp_step(a, d, u, s, t, n, eta=eta, s_noise=s_noise),
                x, denoised, uncond, noise()))
        if on_step is not None:
            on_step(step, denoised)
    return x


def sde_coefficients(sigma_next: float, eta: float = RES_2S_ETA) -> tuple[float, float, float]:
    """(alpha, sigma_down, sigma_up) of a variance-preserving noise injection at ``sigma_next`` (spec/07 §5)."""
    up = min(eta * sigma_next, 0.9999 * sigma_next)
    residual = math.sqrt(sigma_next**2 - up**2)
    alpha = (1 - sigma_next) + residual
    return alpha, residual / alpha, up


def sde_step(x: Tensor, target: Tensor, sigma: float, sigma_next: float, noise: Tensor, *,
             eta: float = RES_2S_ETA) -> Tensor:
    """Replace part of the step x -> target by noise of the same variance (spec/07 §5, SDE)."""
    alpha, down, up = sde_coefficients(sigma_next, eta)
    if up == 0 or sigma_next == 0:
        return target
    epsilon = (x - target) / (sigma - sigma_next)
    return alpha * (x - sigma * epsilon + down * epsilon) + up * noise


def res_2s_coefficients(h: float) -> tuple[float, float, float]:
    """(a21, b1, b2) of the second-order exponential step of log-size h (spec/07 §5)."""
    def phi1(z: float) -> float:
        return math.expm1(z) / z

    def phi2(z: float) -> float:
        return (math.expm1(z) - z) / z**2

    b2 = 2 * phi2(-h)
    return 0.5 * phi1(-h / 2), phi1(-h) - b2, b2


def res_2s_last_sigma(before: float) -> float:
    """What takes the place of a last sigma 0: 0.0011, or half the sigma before it where that is no more."""
    if before > RES_2S_LAST_SIGMA:
        return RES_2S_LAST_SIGMA
    return before / 2


def res_2s(model: Model, x: Streams, sigmas: Sequence[float], on_step: OnStep | None = None, *,
           blend: Blend, noise: Callable[[str], Streams], eta: float = RES_2S_ETA) -> Streams:
    """res_2s, the solver of the high-quality recipe: two model calls a step, with SDE noise (spec/07 §5).

    Arithmetic runs in float64 (float32 where a device has none); x is rounded to its dtype before each model
    call. A schedule that ends in 0 ends in 0.0011 instead (in half its last sigma where that is no more than 0.0011),
    and one more model call there gives the result.

    Args:
        blend: holds conditioned tokens; applied again after each noise injection.
        noise: "substep" or "step" -> standardised noise of both streams; drawn in this order each step.
        eta: share of noise at the end of a step, 0 to 1; the substep's is always 0.5, as officially.
    """
    dtype = next(part.dtype for part in x if part is not None)
    shares = {"substep": RES_2S_ETA, "step": eta}
    schedule = list(sigmas)
    final = schedule[-1] == 0
    if final:
        schedule[-1] = res_2s_last_sigma(schedule[-2])

    def wide(streams: Streams) -> Streams:
        return map_streams(lambda t: t.to(widest(t.device)), streams)

    def narrow(streams: Streams) -> Streams:
        return map_streams(lambda t: t.to(dtype), streams)

    def injected(anchor: Streams, target: Streams, sigma: float, sigma_next: float, kind: str) -> Streams:
        share = shares[kind]
        return blend(map_streams(lambda a, t, n: sde_step(a, t, sigma, sigma_next, n.to(a.dtype), eta=share),
                                 anchor, target, noise(kind)))

    for step, (sigma, sigma_next) in enumerate(pairwise(schedule)):
        h, middle = -math.log(sigma_next / sigma), math.sqrt(sigma * sigma_next)
        a21, b1, b2 = res_2s_coefficients(h)
        anchor, first = wide(x), wide(model(x, sigma, step))
        halfway = map_streams(lambda a, d, k=h * a21: a + k * (d - a), anchor, first)
        halfway = injected(anchor, halfway, sigma, middle, "substep")
        if h < 0.5 and sigma > 0.03:
            # The official code iterates a <- halfway - h a21 (d1 - a) a hundred times; this is its fixed point.
            anchor = map_streams(lambda m, d, k=h * a21: (m - k * d) / (1 - k), halfway, first)
        second = wide(model(narrow(halfway), middle, 0))
        target = map_streams(lambda a, d, e, h=h, b1=b1, b2=b2: a + h * (b1 * (d - a) + b2 * (e - a)),
                             anchor, first, second)
        x = narrow(injected(anchor, target, sigma, sigma_next, "step"))
        if on_step is not None:
            on_step(step, first)
    if final:
        return model(x, schedule[-1], len(schedule) - 1)
    return x
