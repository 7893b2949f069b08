"""Settings: each option once, checked all at once; plans: everything refused before anything is loaded."""
from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from ltx23_core import Guidance, GuiderParams, ImageCondition, Pipeline, Retake, SourceClip, Windows
from ltx23_core.cli import parser as cli
from ltx23_core.errors import GeometryError, LTX23Error, OverlayError, RequestError
from ltx23_core.geometry import video_grid
from ltx23_core.overlay import materialize
from ltx23_core.plan.recipes import RECIPE_NAMES, RECIPES
from ltx23_core.plan.settings import OPTIONS, Settings, refusal, size_step
from ltx23_core.plan.sigmas import ltx2_schedule

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"width": 96, "height": 64, "frames": 9}


@pytest.fixture
def cold(tiny_overlay):
    """A pipeline that has loaded nothing; it must stay so."""
    pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32")
    yield pipe
    assert not any(component.bytes_read for component in pipe.components)


@pytest.mark.parametrize(("values", "words"), [
    ({"width": 1000, "height": 700}, "width is 1000 and height is 700 pixels. Expected: multiples of 32. "
                                     "Next: Use 992x704 or 1024x704."),
    ({"width": 1000, "frames": 120}, "width is 1000 pixels; frames is 120. Expected: a multiple of 32; 8 k + 1 "
                                     "(1, 9, 17, … 121). Next: Use 992 or 1024. Use 113 or 121."),
    ({"width": 20000}, "width is 20000. Expected: 32 to 8192. Next: Use 768."),
    ({"frames": 8_000_001}, "frames is 8000001. Expected: 1 to 10001. Next: Use 121."),
    ({"width": "abc"}, "width is 'abc'. Expected: a whole number. Next: Use 768."),
    ({"width": 768.5}, "width is 768.5. Expected: a whole number. Next: Use 768."),
    ({"batch": True}, "batch is True. Expected: a whole number. Next: Use 1."),
    ({"fps": float("nan")}, "fps is nan. Expected: 1 to 120. Next: Use 24.0."),
    ({"fps": "24"}, "fps is '24'. Expected: a number. Next: Use 24.0."),
    ({"noise_device": "gpu", "streams": "x"}, "streams is 'x'; noise_device is 'gpu'. Expected: one of both, video, "
                                              "audio; one of auto, cpu. Next: Choose both. Choose auto."),
    ({"recipe": ["auto"]}, "recipe is ['auto']. Expected: one of auto"),
    ({"steps": 20_000, "height": 0}, "steps is 20000; height is 0 pixels. Expected: 1 to 10000; a multiple of 32. "
                                     "Next: Use 0. Use 32 or 64."),
])
def test_all_wrong_values_are_told_at_once(values, words):
    ordered = {name: values[name] for name in OPTIONS if name in values}
    error = refusal(ordered)
    assert isinstance(error, LTX23Error) and str(error).startswith(words)
    assert isinstance(error, GeometryError) == (words.count("pixels") > 0 and "steps" not in values)


@pytest.mark.parametrize("values", [
    {"width": 8192, "height": 32, "frames": 10_001, "fps": 120.0, "seed": 2**64 - 1, "steps": 0, "batch": 64},
    {"width": None, "audio_stage": "auto", "fps": Fraction(24000, 1001)}, {name: None for name in OPTIONS}, {}])
def test_values_that_can_be(values):
    assert refusal(values, widgets=True) is None


def test_bounds_of_a_widget_are_its_own_where_the_library_takes_more():
    assert refusal({"seed": -1, "fps": 240.0}) is None
    assert refusal({"seed": -1}, widgets=True) is not None and refusal({"fps": 240.0}, widgets=True) is not None


def test_sizes_go_by_the_recipe():
    assert {name: size_step(name) for name in ("auto", "one_stage", "hq", "distilled")} == {
        "auto": 32, "one_stage": 32, "hq": 64, "distilled": 64}
    assert size_step("hq", "audio") == size_step(None) == 32
    assert "Use 704 or 768." in str(refusal({"width": 736}, size_step("distilled")))


def test_an_option_is_shown_everywhere_with_the_same_text():
    """The command line's help is the nodes' tooltip; a widget begins within its own bounds."""
    parser = cli.build_parser()
    [commands] = [action for action in parser._actions if action.dest == "command"]
    shown = {action.dest: action for action in commands.choices["generate"]._actions}
    for name in ("recipe", "width", "height", "frames", "fps", "seed", "steps", "noise_device"):
        assert shown[name].help.replace("%%", "%") == OPTIONS[name].text
        assert shown[name].choices in (None, OPTIONS[name].choices)
    assert shown["recipe"].choices == RECIPE_NAMES
    assert refusal({name: option.shown for name, option in OPTIONS.items()}, widgets=True) is None
    assert set(Settings.__dataclass_fields__) >= set(OPTIONS)


def test_widgets_values_that_mean_the_recipe_s_own():
    settings = Settings.of(steps=0, audio_stage="auto", width=96, stages="all")
    assert (settings.steps, settings.audio_stage, settings.width) == (None, None, 96)


@pytest.mark.parametrize(("settings", "words"), [
    ({"recipe": "distilled", "steps": 30}, "8, the sigmas"),
    ({"guidance": Guidance(GuiderParams(stg=1.0, stg_blocks=(28,)))}, "STG block 28"),
    ({"conditions": [ImageCondition(torch.zeros(8, 8, 3), frame=200)]}, "frame 200 of a clip of 9 frames"),
    ({"conditions": [Retake(SourceClip(torch.zeros(9, 8, 8, 3)), 2.0, 3.0)]}, "begins at 2 s"),
    ({"sigmas": [0.5, 0.7, 0.0]}, "strictly falling"),
    ({"recipe": "distilled", "stages": "second"}, "without the latents"),
    ({"windows": Windows(34, 8)}, "Use 33 or 41"), ({"batch": 0}, "1 to 64"), ({"recipe": "hq", "width": 96}, "of 64"),
    ({"width": 1000, "height": 700}, "992x704 or 1024x704"), ({"frames": 1, "fps": 900.0}, "at least 0.02 s")])
def test_what_cannot_be_is_refused_before_a_byte_is_read(cold, settings, words):
    with pytest.raises(LTX23Error, match=words):
        cold.plan(Settings(**{**SMALL, "width": 128, **settings}))


def test_a_component_that_is_missing_is_named_by_the_plan(tiny_overlay, tmp_path):
    source = tiny_overlay.require("transformer").tensors["proj_out.weight"].path
    names = [name for name in tiny_overlay.components if name not in ("upsampler_x2", "distilled_lora")]
    bare = materialize(source, output=tmp_path / "bare.json", variant="distilled")
    with pytest.raises(RequestError, match="x2 latent upscaler"):
        Pipeline(bare, device="cpu").plan(Settings(recipe="distilled"))
    assert "video_encoder" in names
    pipe = Pipeline(bare, device="cpu")
    bare.components.pop("video_encoder")
    with pytest.raises(OverlayError, match="video_encoder"):
        pipe.plan(Settings(conditions=[ImageCondition(torch.zeros(8, 8, 3))], **SMALL))


def test_a_plan_prints_what_will_happen(cold):
    plan = cold.plan(Settings(recipe="two_stage", width=128, height=64, frames=17, steps=4, batch=2))
    first, *stages = str(plan).splitlines()
    assert first.startswith("two_stage: 128x64, 17 frames at 24 fps (0.71 s), seed 10 to 11; 0.")
    assert stages == ["stage 1: 64x32, 4 steps of euler, 4 passes a step, sigma 1 to 0",
                      "stage 2: 128x64, 3 steps of euler, 1 pass a step, sigma 0.909375 to 0"]
    long = cold.plan(Settings(frames=81, width=64, height=64, streams="video", windows=Windows(33, 8)))
    assert ", no sound, 3 windows of 5 latent frames; " in str(long)


def test_hq_schedules_of_long_videos_follow_the_window(cold):
    size = {"recipe": "hq", "width": 1920, "height": 1088, "frames": 1201}
    stage = cold.plan(Settings(windows=Windows(121, 24), **size)).decision.stages[0]
    assert list(stage.sigmas) == ltx2_schedule(15, video_grid(960, 544, 121).tokens)
    whole = cold.plan(Settings(**size)).decision.stages[0]
    assert list(whole.sigmas) == ltx2_schedule(15, video_grid(960, 544, 1201).tokens) != list(stage.sigmas)
    short = cold.plan(Settings(windows=Windows(121, 24), **{**size, "frames": 57})).decision.stages[0]
    assert list(short.sigmas) == ltx2_schedule(15, video_grid(960, 544, 57).tokens)


def test_a_plan_runs_as_the_single_call_does(tiny_pipeline):
    pair = tiny_pipeline.encode("a boat on a lake", "noise")
    settings = {**SMALL, "steps": 1, "seed": 5, "recipe": "one_stage"}
    plan, direct = tiny_pipeline.plan(Settings(**settings)).run(pair), tiny_pipeline.sample(pair, **settings)
    assert torch.equal(plan.video, direct.video) and torch.equal(plan.audio, direct.audio)


def test_settings_import_no_torch():
    code = "import sys, ltx23_core.plan.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert set(RECIPE_NAMES) == {"auto", *RECIPES}
