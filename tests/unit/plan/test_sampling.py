"""Sampling beyond the goldens: states, schedules, guidance, solvers."""
from __future__ import annotations

import math

import pytest
import torch

from ltx23_core.errors import RequestError
from ltx23_core.geometry import VideoGrid
from ltx23_core.plan.guidance import GuiderParams
from ltx23_core.plan.recipes import DISTILLED_SIGMAS, RECIPES, choose_recipe, official_guidance, stg_block
from ltx23_core.plan.sigmas import as_sigmas, ltx2_schedule
from ltx23_core.sampling.combine import combine
from ltx23_core.sampling.solvers import euler, gradient_estimation, res_2s
from ltx23_core.sampling.state import StreamState, audio_to_tokens, tokens_to_audio, tokens_to_video, video_to_tokens


def test_tokens_round_trip():
    video, audio = torch.randn(2, 8, 3, 2, 4), torch.randn(2, 2, 9, 16)
    assert torch.equal(tokens_to_video(video_to_tokens(video), VideoGrid(3, 2, 4)), video)
    assert torch.equal(tokens_to_audio(audio_to_tokens(audio), 2), audio)


def test_schedule_values_of_the_spec():
    want = [1.0, 0.994957, 0.989603, 0.983908, 0.97784, 0.971358, 0.964421, 0.956978]
    got = ltx2_schedule(30)
    assert got[:8] == pytest.approx(want, abs=1e-5) and got[-2:] == pytest.approx([0.1, 0.0])
    assert ltx2_schedule(15, 8160)[12:] == pytest.approx([0.673897, 0.503378, 0.1, 0.0], abs=1e-5)


def test_schedules_never_hold_nan():
    assert ltx2_schedule(1) == pytest.approx([1.0, 0.0])
    assert all(math.isfinite(s) for steps in (2, 8, 40) for s in ltx2_schedule(steps, 63240))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.9, 0.0], [1.2, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, float("nan"), 0.0]])
def test_bad_sigmas_are_refused(values):
    with pytest.raises(RequestError, match="falling"):
        as_sigmas(values)


def test_replaced_and_appended_tokens():
    state = StreamState.from_tokens(torch.zeros(1, 6, 4), torch.zeros(1, 3, 6, 2))
    held = state.replaced(torch.ones(1, 2, 4), 0, 1.0).appended(torch.full((1, 3, 4), 2.0), torch.ones(1, 3, 3, 2), 0.9)
    assert held.mask[0, :, 0].tolist() == pytest.approx([0, 0, 1, 1, 1, 1, 0.1, 0.1, 0.1])
    start = held.noised(torch.full((1, 9, 4), 5.0), 1.0)
    assert start[0, :2].eq(1).all() and start[0, 2:6].eq(5).all()
    assert torch.allclose(start[0, 6:], torch.tensor(2.0 * 0.9 + 5.0 * 0.1))
    assert state.mask.eq(1).all() and state.clean.eq(0).all(), "the first state was changed in place"
    values, index = held.distinct_mask()
    assert len(values) == 3 and torch.allclose(values[index], held.mask[0, :, 0])


def test_a_perfect_model_is_followed_exactly():
    target = torch.randn(1, 5, 4)
    noise = torch.randn(1, 5, 4)

    def model(x, sigma, step):
        return target, None

    sigmas = ltx2_schedule(6)
    for solver in (euler, gradient_estimation):
        assert torch.allclose(solver(model, (noise, None), sigmas)[0], target, atol=1e-5)
    result = res_2s(model, (noise, None), sigmas, blend=lambda x: x, noise=lambda kind: (torch.randn(1, 5, 4), None))
    assert torch.equal(result[0], target)


def test_combine_without_passes_is_the_conditional_prediction():
    cond = torch.randn(1, 5, 4)
    assert torch.equal(combine(GuiderParams(), cond), cond)
    pulled = combine(GuiderParams(cfg=7.0, rescale=1.0), cond, uncond=torch.randn(1, 5, 4))
    assert pulled.std().item() == pytest.approx(cond.std().item(), rel=1e-5)


@pytest.mark.parametrize(("params", "words"), [
    ({"rescale": 1.5}, "0 to 1"), ({"stg": 1.0}, "28"), ({"cfg": float("inf")}, "finite")])
def test_guidance_that_cannot_be_is_refused(params, words):
    with pytest.raises(RequestError, match=words):
        GuiderParams(**params)


def test_official_defaults():
    guidance = official_guidance(48)
    assert guidance.video == GuiderParams(3.0, 1.0, 3.0, 0.7, (28,))
    assert guidance.audio == GuiderParams(7.0, 1.0, 3.0, 0.7, (28,))
    assert stg_block(4) == 2 and RECIPES["one_stage"].steps == 30 and RECIPES["distilled"].steps == 8
    assert len(DISTILLED_SIGMAS) == 9


def test_auto_recipe_goes_by_the_weights():
    assert choose_recipe("auto", "dev", ()).name == "one_stage"
    assert choose_recipe("auto", "distilled", ("upsampler_x2",)).name == "distilled"
    assert choose_recipe("auto", "distilled", ()).name == "distilled_one_stage"


@pytest.mark.parametrize(("name", "variant", "components", "words"), [
    ("distilled", "dev", ("upsampler_x2",), "distilled-lora"), ("distilled", "distilled", (), "upscaler"),
    ("best", "dev", (), "one of auto")])
def test_recipes_that_weights_cannot_serve(name, variant, components, words):
    with pytest.raises(RequestError, match=words):
        choose_recipe(name, variant, components)
