"""The sigma formula and the guidance rescale against diffusers."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from ltx23_core.plan.guidance import Apg, GuiderParams
from ltx23_core.plan.sigmas import BASE_SHIFT, BASE_TOKENS, MAX_SHIFT, MAX_TOKENS, TERMINAL, ltx2_schedule
from ltx23_core.sampling.combine import RunningDifference, combine

from .support import DIFFUSERS, randn, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift, rescale_noise_cfg


@pytest.mark.parametrize("tokens", [12, 1024, 4096, 6144, 9000])
@pytest.mark.parametrize("terminal", [TERMINAL, 0.25])
def test_sigmas(tokens: int, terminal: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=BASE_SHIFT, max_shift=MAX_SHIFT,
                                                base_image_seq_len=BASE_TOKENS, max_image_seq_len=MAX_TOKENS,
                                                shift_terminal=terminal)
    shift = calculate_shift(tokens, BASE_TOKENS, MAX_TOKENS, BASE_SHIFT, MAX_SHIFT)
    for steps in (2, 7, 30):  # with one step diffusers stretches too: it divides by zero
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
        got = torch.tensor(ltx2_schedule(steps, tokens, terminal=terminal))
        same(f"{tokens} tokens, {steps} steps, terminal {terminal}", got, scheduler.sigmas)


@pytest.mark.parametrize("params", [GuiderParams(3.0, 1.0, 3.0, 0.7, (1,)), GuiderParams(6.5, 0.0, 1.0, 1.0),
                                    GuiderParams(1.0, 2.0, 1.5, 0.2, (0,))])
def test_guidance(params: GuiderParams) -> None:
    """Batch 1: of a larger batch the official code takes one deviation, diffusers one a sample."""
    cond, uncond, perturbed, modality = (randn(seed, 1, 50, 9) for seed in range(4))
    guided = (cond + (params.cfg - 1) * (cond - uncond) + params.stg * (cond - perturbed)
              + (params.modality - 1) * (cond - modality))
    same("guided", combine(params, cond, uncond, perturbed, modality), rescale_noise_cfg(guided, cond, params.rescale))


@pytest.mark.parametrize("apg", [Apg(), Apg(0.4, 5.0, 0.0), Apg(1.0, 2.5, -0.5), Apg(0.0, 0.0, 0.3)])
def test_apg_of_a_batch(apg: Apg) -> None:
    """Three samples, three steps: the official code has no form for batches, diffusers and this pack have."""
    running, buffer = RunningDifference(), MomentumBuffer(apg.momentum)
    for step in range(3):
        cond, uncond = randn(step, 3, 50, 9), randn(10 + step, 3, 50, 9)
        want = normalized_guidance(cond, uncond, 4.0, buffer, apg.eta, apg.norm_threshold, True)
        same(f"{apg} step {step}", combine(GuiderParams(cfg=5.0, apg=apg), cond, uncond, running=running), want)


def test_cfg_zero_star_of_a_batch() -> None:
    cond, uncond = randn(0, 3, 50, 9), randn(1, 3, 50, 9)
    fitted = uncond * cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1))[..., None]
    same("CFG-Zero*", combine(GuiderParams(cfg=5.0, cfg_star=True), cond, uncond), fitted + 5.0 * (cond - fitted))
