"""Recipes of two stages, stages apart, batches of seeds, single streams, noise: on the tiny model."""
from __future__ import annotations

import pytest
import torch

from ltx23_core import Guidance, GuiderParams
from ltx23_core.errors import RequestError
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.sampling.solve import Solver, standardised_noise

SIZE = {"width": 128, "height": 64, "frames": 9}


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def settings(recipe: str) -> dict:
    return {"recipe": recipe, **SIZE, **({} if RECIPES[recipe].stages[0].sigmas else {"steps": 3})}


@pytest.mark.parametrize("recipe", ["two_stage", "hq", "distilled", "sglang_hq"])
def test_stages_apart_give_the_same_as_together(tiny_pipeline, pair, recipe):
    together = tiny_pipeline.sample(pair, **settings(recipe))
    first = tiny_pipeline.sample(pair, stages="first", **settings(recipe))
    assert first.video.shape[-2:] == (1, 2) and together.video.shape[-2:] == (2, 4)
    start = first.__class__(tiny_pipeline.upscale(first.video), first.audio, first.fps, first.frames, first.seed,
                            first.drawn)
    second = tiny_pipeline.sample(pair, stages="second", start=start, recipe=recipe, **SIZE)
    assert torch.equal(second.video, together.video) and torch.equal(second.audio, together.audio)


def test_whose_sound_is_returned(tiny_pipeline, pair):
    first = tiny_pipeline.sample(pair, stages="first", **settings("two_stage"))
    official = tiny_pipeline.sample(pair, **settings("two_stage"))
    last = tiny_pipeline.sample(pair, audio_stage="last", **settings("two_stage"))
    assert torch.equal(official.audio, first.audio), "official: stage 1's"
    assert not torch.allclose(last.audio, first.audio, atol=1e-3) and torch.equal(last.video, official.video)
    distilled = tiny_pipeline.sample(pair, stages="first", **settings("distilled"))
    whole = tiny_pipeline.sample(pair, **settings("distilled"))
    assert not torch.allclose(whole.audio, distilled.audio, atol=1e-3), "official: stage 2's"


def test_another_seed_in_the_second_stage_is_new_noise(tiny_pipeline, pair):
    first = tiny_pipeline.sample(pair, stages="first", **settings("distilled"))
    start = first.__class__(tiny_pipeline.upscale(first.video), first.audio, first.fps, first.frames, first.seed,
                            first.drawn)
    results = [tiny_pipeline.sample(pair, stages="second", start=start, recipe="distilled", seed=seed, **SIZE).video
               for seed in (10, 11)]
    assert not torch.allclose(*results, atol=1e-3)


def test_each_of_a_batch_is_its_single_run(tiny_pipeline, pair):
    seen = []
    batch = tiny_pipeline.sample(pair, batch=3, seed=7, on_step=seen.append, **settings("distilled"))
    assert batch.video.shape[0] == 3 and batch.audio.shape[0] == 3 and batch.batch == 3
    for index in range(3):
        single = tiny_pipeline.sample(pair, seed=7 + index, **settings("distilled"))
        assert torch.equal(batch.video[index:index + 1], single.video)
        assert torch.equal(batch.audio[index:index + 1], single.audio)
    assert [info.step for info in seen] == list(range(1, 34)) and {info.steps for info in seen} == {33}
    part = batch.sample(2)
    assert part.seed == 9 and torch.equal(part.video, batch.video[2:])


def test_a_batch_goes_through_separate_stages(tiny_pipeline, pair):
    together = tiny_pipeline.sample(pair, batch=2, **settings("distilled"))
    first = tiny_pipeline.sample(pair, batch=2, stages="first", **settings("distilled"))
    start = first.__class__(tiny_pipeline.upscale(first.video), first.audio, first.fps, first.frames, first.seed,
                            first.drawn)
    second = tiny_pipeline.sample(pair, batch=2, stages="second", start=start, recipe="distilled", **SIZE)
    assert torch.equal(second.video, together.video)


def test_sound_alone_and_picture_alone(tiny_pipeline, pair):
    """The other stream is absent, not silenced: its guidance and the modality pass fall away."""
    sound = tiny_pipeline.sample(pair, streams="audio", steps=2, **SIZE)
    assert sound.video is None and sound.audio.shape == (1, 2, 9, 16)
    again = tiny_pipeline.sample(pair, streams="audio", steps=2, width=768, height=512, frames=9)
    assert torch.equal(sound.audio, again.audio), "the picture's size has no part in it"
    assert len(tiny_pipeline.sample(pair, streams="audio", **settings("two_stage")).drawn) == 1, "one stage"
    picture = tiny_pipeline.sample(pair, streams="video", **settings("two_stage"))
    assert picture.audio is None and picture.video.shape == (1, 8, 2, 2, 4)


def test_noise_of_the_cpu_is_drawn_there(tiny_pipeline, pair):
    """On a CPU both are one stream; on other devices tests/gpu compares."""
    results = [tiny_pipeline.sample(pair, noise_device=place, **settings("one_stage")) for place in ("auto", "cpu")]
    assert torch.equal(results[0].video, results[1].video)


def test_custom_has_no_guidance_of_its_own_and_takes_any_solver(tiny_pipeline, pair):
    plain = tiny_pipeline.sample(pair, **settings("custom"))
    official = tiny_pipeline.sample(pair, **settings("one_stage"))
    off = tiny_pipeline.sample(pair, guidance=Guidance(GuiderParams(), GuiderParams()), **settings("one_stage"))
    assert torch.equal(plain.video, off.video) and not torch.allclose(plain.video, official.video, atol=1e-3)
    other = tiny_pipeline.sample(pair, solver=Solver("gradient_estimation"), **settings("custom"))
    assert other.video.isfinite().all() and not torch.equal(other.video, plain.video)


def test_sigmas_below_one_start_from_latents(tiny_pipeline, pair):
    first = tiny_pipeline.sample(pair, **settings("one_stage"))
    near = tiny_pipeline.sample(pair, recipe="custom", sigmas=[0.05, 0.0], start=first, **SIZE)
    far = tiny_pipeline.sample(pair, recipe="custom", sigmas=[0.9, 0.0], start=first, **SIZE)
    distance = [(result.video - first.video).std().item() for result in (near, far)]
    assert distance[0] < distance[1] / 3, distance


def test_hq_schedule_follows_its_tokens(tiny_pipeline, pair):
    from ltx23_core.plan.condition import Clip
    from ltx23_core.plan.settings import Settings
    from ltx23_core.plan.stages import plan_stages
    plan = plan_stages(RECIPES["hq"], Settings(), Clip(1920, 1088, 121, 24.0), layers=48, frames=121)
    assert plan[0].sigmas[1] == pytest.approx(0.993491, abs=1e-6) and plan[0].sigmas[-2] == pytest.approx(0.1)
    assert [stage.solver.name for stage in plan] == ["res_2s", "res_2s"] and plan[0].loras == (0.25, 0.5)
    assert plan[0].guidance.video == GuiderParams(3.0, 0.0, 3.0, 0.45) and plan[1].guidance is None
    two = plan_stages(RECIPES["two_stage"], Settings(), Clip(1536, 1024, 121, 24.0), layers=48, frames=121)
    assert two[0].sigmas[1] == pytest.approx(0.994957, abs=1e-6), "official: 4096 tokens whatever the size"
    assert two[0].guidance.audio.stg_blocks == (28,)


def test_sglang_s_values_are_selectable_as_they_are():
    """LTX23SamplingParams and LTX23HQSamplingParams (spec/07 §6), and what differs from the official recipes."""
    plain, hq = RECIPES["sglang"], RECIPES["sglang_hq"]
    assert (plain.seed, plain.width, plain.height, plain.frames, plain.steps) == (42, 768, 512, 121, 30)
    assert plain.video == GuiderParams(3.0, 1.0, 3.0, 0.7, (28,)) and plain.fps == hq.fps == 24.0
    assert plain.audio == GuiderParams(7.0, 1.0, 3.0, 0.7, (28,))
    assert (hq.seed, hq.width, hq.height, hq.frames, hq.steps, hq.latent_schedule) == (42, 1920, 1088, 121, 15, True)
    assert (hq.video, hq.audio) == (GuiderParams(3.0, 0.0, 3.0, 0.45), GuiderParams(7.0, 0.0, 3.0, 1.0))
    assert [stage.lora for stage in hq.stages] == [0.25, 0.5] and hq.audio_stage == "last"
    assert RECIPES["hq"].audio_stage == "first" and RECIPES["hq"].seed == RECIPES["one_stage"].seed == 10


def test_sde_noise_is_standardised():
    noise = standardised_noise(torch.zeros(2, 50, 8), torch.Generator().manual_seed(-1))
    assert noise.dtype == torch.float64
    assert noise.mean(dim=(1, 2)).abs().max() < 1e-12 and (noise.std(dim=(1, 2)) - 1).abs().max() < 1e-12


@pytest.mark.parametrize(("options", "words"), [
    ({"recipe": "one_stage", "stages": "second"}, "has one stage"),
    ({"recipe": "distilled", "stages": "third"}, "one of all, first, second"),
    ({"recipe": "distilled", "stages": "second"}, "without the latents of the stage before"),
    ({"recipe": "one_stage", "streams": "picture"}, "one of both"),
    ({"recipe": "distilled", "audio_stage": "middle"}, "one of auto, first, last"),
    ({"recipe": "one_stage", "batch": 0}, "1 to 64")])
def test_requests_that_cannot_be(tiny_pipeline, pair, options, words):
    with pytest.raises(RequestError, match=words) as caught:
        tiny_pipeline.sample(pair, **SIZE, **options)
    assert caught.value.expected and caught.value.fix


def test_latents_that_do_not_fit(tiny_pipeline, pair):
    first = tiny_pipeline.sample(pair, stages="first", **settings("distilled"))
    with pytest.raises(RequestError, match="Latent Upscale"):
        tiny_pipeline.sample(pair, stages="second", start=first, recipe="distilled", **SIZE)
    with pytest.raises(RequestError, match="begins at sigma 1"):
        tiny_pipeline.sample(pair, start=first, **settings("one_stage"))
    with pytest.raises(RequestError, match="audio latent to start from"):
        tiny_pipeline.sample(pair, recipe="custom", sigmas=[0.5, 0.0], **{**SIZE, "frames": 17}, start=first.__class__(
            None, first.audio, 24.0, 17))
    with pytest.raises(RequestError, match="multiples of 64"):
        tiny_pipeline.upscale(torch.zeros(1, 8, 2, 3, 4), "x1.5")
    with pytest.raises(RequestError, match="one of x2"):
        tiny_pipeline.upscale(first.video, "x3")


@pytest.mark.parametrize(("kind", "shape"), [("x2", (2, 2, 4)), ("temporal_x2", (3, 1, 2))])
def test_upscalers(tiny_pipeline, kind, shape):
    larger = tiny_pipeline.upscale(torch.randn(2, 8, 2, 1, 2), kind)
    assert larger.shape == (2, 8, *shape) and larger.isfinite().all()
