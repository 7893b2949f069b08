"""The shipped tiny model does what prompts say, in the library's own pipeline; a short form of `bench quality`."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import quality
from bench.quality_features import Maker, first_frame, measure
from ltx23_core import Overlay, Pipeline
from tools.tiny_world import shipped
from tools.tiny_world.evaluate import summary
from tools.tiny_world.prompts import held_out_prompts

ROOT = Path(__file__).parents[3]
WIDTH, HEIGHT, FRAMES = shipped.SIZE
DEMO = {"recipe": "one_stage", "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "steps": 12}
PROMPTS = held_out_prompts(4)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return quality.open_tiny(shipped.FOLDER, tmp_path_factory.mktemp("overlay"))


@pytest.fixture(scope="module")
def baseline(overlay: Overlay) -> quality.Results:
    return quality.run(overlay, quality.MODES["fp32"], PROMPTS, DEMO, "cpu")


def test_the_files_are_small_and_those_of_a_real_model(overlay):
    parts = shipped.files()
    size = sum(path.stat().st_size for path in shipped.FOLDER.rglob("*") if path.is_file())
    assert size <= 16_000_000
    assert parts.checkpoint.is_file() and (parts.text_encoder / "model.safetensors").is_file()
    for name in ("transformer", "connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder",
                 "audio_decoder", "vocoder", "text_encoder", "upsampler_x2", "distilled_lora"):
        assert name in overlay.components, name
    assert overlay.variant == "dev"


def test_prompts_are_followed(baseline):
    scores = summary(baseline.verdicts)
    assert scores["colour"] == 1.0 and scores["followed"] >= 0.75, scores
    assert scores["pitch"] >= 0.85, scores


@pytest.mark.parametrize("mode", ["fp8", "int8", "stream", "tiled"])
def test_a_mode_keeps_what_is_seen(mode, overlay, baseline):
    made = quality.run(overlay, quality.MODES[mode], PROMPTS[:1], DEMO, "cpu")
    apart = quality.psnr(made.frames[0], baseline.frames[0])
    assert made.verdicts[0].followed == baseline.verdicts[0].followed
    assert apart > 20, f"{mode}: {apart:.1f} dB"


def test_a_first_frame_is_held(overlay):
    pipe = Pipeline(overlay, device="cpu")
    rows = measure(Maker(pipe, shipped.files().distilled_lora, steps=8), 1, ("first frame",))
    found = {row[1]: row[3] for row in rows}
    assert found["first frame"] > 26, found


def test_the_judge_of_features_can_say_no(overlay):
    """The same check on a picture that the model was not given."""
    pipe = Pipeline(overlay, device="cpu")
    maker = Maker(pipe, shipped.files().distilled_lora, steps=2)
    from bench.quality_features import examples
    one, other = examples(2)
    assert first_frame(maker, one)["first frame", "dB"] > quality.psnr(one.frames[0], other.frames[0])
    assert np.isfinite(other.wave).all()
