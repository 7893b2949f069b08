"""On a GPU, in both precisions: two ways to one result give the same bytes (on the CPU: unit/run/test_layout)."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)

from ltx23_core import Lora, Pipeline, Windows, materialize
from ltx23_core.plan.latents import Latents
from ltx23_core.plan.recipes import RECIPES

TINY = Path(__file__).resolve().parents[1] / "goldens" / "tiny"
LORA = TINY / "ltx-2.3-tiny-distilled-lora.safetensors"
SIZE = {"width": 128, "height": 64, "frames": 25, "seed": 3}
WAYS = ("one_stage", "distilled", "hq")


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    return materialize(TINY / "ltx-2.3-tiny.safetensors", TINY / "gemma", distilled_lora=LORA,
                       upsamplers=sorted(TINY.glob("*-upscaler-*.safetensors")),
                       output=tmp_path_factory.mktemp("overlay") / "tiny.ltx23.json")


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def pipe(request, overlay):
    return Pipeline(overlay, device="cuda", dtype=request.param)


@pytest.fixture(scope="module")
def pair(pipe):
    return pipe.encode("a boat on a lake", "noise")


def settings(recipe: str, **more: object) -> dict:
    given = {} if RECIPES[recipe].stages[0].sigmas else {"steps": 2}
    return {"recipe": recipe, **SIZE, **given, **more}


def same(one: Latents, other: Latents) -> bool:
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


@pytest.mark.parametrize("recipe", WAYS)
def test_twice_the_same(pipe, pair, recipe):
    assert same(pipe.sample(pair, **settings(recipe)), pipe.sample(pair, **settings(recipe)))


@pytest.mark.parametrize("recipe", WAYS)
def test_a_window_is_a_plain_run(pipe, pair, recipe):
    plain = pipe.sample(pair, **settings(recipe))
    assert same(plain, pipe.sample(pair, windows=Windows(25, 8), **settings(recipe)))


def test_a_batch_is_its_samples(pipe, pair):
    both = pipe.sample(pair, batch=2, **settings("distilled"))
    for number in range(2):
        assert same(both.sample(number), pipe.sample(pair, **settings("distilled", seed=3 + number)))


@pytest.mark.parametrize("recipe", ["distilled", "hq"])
def test_two_calls_are_one(pipe, pair, recipe):
    whole = pipe.sample(pair, audio_stage="last", **settings(recipe))
    first = pipe.sample(pair, stages="first", **settings(recipe))
    strided = first.video.transpose(1, 4).contiguous().transpose(1, 4)
    carried = replace(first, video=pipe.upscale(strided).transpose(1, 4).contiguous().transpose(1, 4))
    second = {name: value for name, value in settings(recipe).items() if name != "steps"}
    assert same(whole, pipe.sample(pair, stages="second", start=carried, audio_stage="last", **second))


@pytest.mark.parametrize("mode", ["fused", "runtime"])
def test_a_lora_that_left_or_has_no_strength_leaves_the_base(pipe, pair, mode):
    base = pipe.sample(pair, **settings("one_stage"))
    changed = pipe.with_loras([Lora(LORA, 1.0, mode=mode)]).sample(pair, **settings("one_stage"))
    assert not torch.equal(base.video, changed.video)
    assert same(base, pipe.sample(pair, **settings("one_stage")))
    none = pipe.with_loras([Lora(LORA, 0.0, mode=mode)]).sample(pair, **settings("one_stage"))
    assert same(base, none)
