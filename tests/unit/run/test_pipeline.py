"""The pipeline on the tiny model: determinism, caches, what it reads, what it refuses, previews, residency."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ltx23_core import Guidance, GuiderParams, ImageCondition, Overlay, Pipeline
from ltx23_core.errors import GeometryError, OutOfMemoryError, OverlayError, RequestError
from ltx23_core.run.preview import LatentToRGB, PreviewQueue
from ltx23_core.runtime.residency import LocalResidency

SMALL = {"width": 96, "height": 64, "frames": 9, "steps": 2}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def test_same_seed_same_bytes_and_another_seed_another_result(tiny_pipeline, pair):
    first, second = (tiny_pipeline.sample(pair, seed=4, **SMALL) for _ in range(2))
    other = tiny_pipeline.sample(pair, seed=5, **SMALL)
    assert torch.equal(first.video, second.video) and torch.equal(first.audio, second.audio)
    assert not torch.allclose(first.video, other.video, atol=0.1)
    assert first.video.shape == (1, 8, 2, 2, 3) and first.audio.shape == (1, 2, 9, 16)


def test_a_second_run_reads_nothing(tiny_pipeline, pair):
    tiny_pipeline.sample(pair, **SMALL)
    before = {c.name: c.loads for c in tiny_pipeline.components}
    tiny_pipeline.sample(tiny_pipeline.encode("a boat on a lake", "noise"), seed=7, **SMALL)
    assert {c.name: c.loads for c in tiny_pipeline.components} == before


def test_weights_can_be_dropped_and_read_again(tiny_overlay):
    pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32")
    first = pipe.encode("one", "two")
    pipe.residency.release()
    assert all(c.loaded_bytes == 0 and next(c.module.parameters()).is_meta for c in pipe.components)
    pipe._shared.contexts.clear()
    second = pipe.encode("one", "two")
    assert torch.equal(first.positive.video, second.positive.video)
    assert pipe.component("text_encoder").loads == 2


def test_equal_texts_are_encoded_once(tiny_overlay):
    pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32")
    assert pipe.encode("same", "same").positive is pipe.encode("same", "same").negative


def test_first_frame_is_held(tiny_pipeline, pair):
    image = torch.rand(70, 50, 3)
    held = tiny_pipeline.sample(pair, conditions=[ImageCondition(image, crf=0)], **SMALL)
    want = tiny_pipeline.encode_video(ImageCondition(image, crf=0).pixels(96, 64))
    assert torch.allclose(held.video[:, :, :1], want, atol=1e-4)
    assert held.video.shape == (1, 8, 2, 2, 3)


def test_last_frame_is_appended_and_not_in_the_output(tiny_pipeline, pair):
    free = tiny_pipeline.sample(pair, **SMALL)
    held = tiny_pipeline.sample(pair, conditions=[ImageCondition(torch.rand(64, 96, 3), frame=-1)], **SMALL)
    assert held.video.shape == free.video.shape and not torch.allclose(held.video, free.video, atol=1e-3)


def test_steps_are_reported_with_previews(tiny_pipeline, pair):
    seen = []
    tiny_pipeline.sample(pair, recipe="distilled", width=128, height=128, frames=9, on_step=seen.append, preview=True)
    assert [info.step for info in seen] == list(range(1, 12)) and {info.steps for info in seen} == {11}
    assert [info.stage for info in seen] == [1] * 8 + [2] * 3
    assert tuple(seen[0].preview.shape) == (2, 2, 2, 3) and tuple(seen[-1].preview.shape) == (2, 4, 4, 3)
    assert seen[0].preview.dtype == torch.uint8


def test_an_exception_in_on_step_ends_the_run(tiny_pipeline, pair):
    class Stop(Exception):
        pass

    def stop(info):
        raise Stop

    with pytest.raises(Stop):
        tiny_pipeline.sample(pair, on_step=stop, **SMALL)


def test_preview_map_predicts_the_decoder(tiny_pipeline):
    to_rgb = tiny_pipeline.preview_map()
    [decoder] = tiny_pipeline._use("video_decoder")
    flat = torch.randn(400, 8, 1, 1, 1, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():  # flat colours: what a linear map must get right, for any decoder
        pixels = torch.cat([decoder(part.expand(-1, -1, 1, 5, 5).contiguous())[:, :, 0] for part in flat.split(40)])
    colours = (torch.nn.functional.avg_pool2d(pixels.clamp(-1, 1), 32)[:, :, 2, 2] + 1) / 2
    mapped = flat[:, :, 0, 0, 0] @ to_rgb.matrix + to_rgb.bias
    error, spread = (mapped - colours).pow(2).mean(), (colours - colours.mean(0)).pow(2).mean()
    print(f"the map explains {1 - error / spread:.0%} of the colours' variance")
    assert error < 0.75 * spread  # 40 colours gave 0.50 to 0.76 of it, 400 0.53 to 0.61


def test_preview_map_is_kept_beside_the_overlay(tiny_pipeline, tmp_path):
    kept = tmp_path / "map.json"
    tiny_pipeline.preview_map().save(kept, "decoder-1")
    loaded = LatentToRGB.load(kept, "decoder-1")
    assert torch.equal(loaded.matrix, tiny_pipeline.preview_map().matrix)
    assert LatentToRGB.load(kept, "decoder-2") is None
    kept.write_text('{"format": "ltx23-preview/1"')
    assert LatentToRGB.load(kept, "decoder-1") is None
    assert tiny_pipeline.overlay.path.with_suffix(".preview.json").exists()


def test_preview_queue_hands_out_the_newest():
    queue = PreviewQueue(LatentToRGB(torch.eye(3), torch.zeros(3)))
    assert queue.take() is None
    queue.put(torch.zeros(1, 3, 1, 2, 2))
    queue.put(torch.ones(1, 3, 1, 2, 2))
    assert queue.take().eq(255).all() and queue.take() is None


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"width": 100}, GeometryError, "96 or 128"), ({"frames": 10}, GeometryError, "9 or 17"),
    ({"recipe": "distilled", "width": 96, "steps": None}, GeometryError, "multiple of 64"),
    ({"recipe": "distilled_one_stage", "steps": 20}, RequestError, "8, the sigmas"),
    ({"steps": 0}, RequestError, "at least 1"),
    ({"conditions": [ImageCondition(torch.zeros(8, 8, 3), frame=9)]}, RequestError, "-9 to 8"),
    ({"guidance": Guidance(GuiderParams(stg=1.0, stg_blocks=(28,)))}, RequestError, "0 to 3"),
    ({"recipe": "quick"}, RequestError, "one of auto")])
def test_requests_that_cannot_be(tiny_pipeline, pair, options, error, words):
    with pytest.raises(error, match=words) as caught:
        tiny_pipeline.sample(pair, **{**SMALL, **options})
    assert caught.value.found and caught.value.expected and caught.value.fix


def test_wrong_latents_are_named(tiny_pipeline):
    with pytest.raises(RequestError, match="video latent"):
        next(tiny_pipeline.decode_video(torch.zeros(1, 4, 2, 2, 2)))
    with pytest.raises(RequestError, match="audio latent"):
        tiny_pipeline.decode_audio(torch.zeros(1, 8, 2, 2))


def test_a_missing_text_encoder_is_named(tiny_overlay, tmp_path):
    from ltx23_core import materialize
    source = next(iter(tiny_overlay.require("transformer").tensors.values())).path
    overlay = materialize(source, output=tmp_path / "bare.json")
    with pytest.raises(OverlayError, match="gemma_3_12B_it"):
        Pipeline(overlay, device="cpu").encode("x")


def test_residency_evicts_the_longest_unused_and_refuses_what_cannot_fit(tiny_overlay):
    sizes = {name: Pipeline(tiny_overlay, device="cpu", dtype="fp32").component(name).size_bytes
             for name in ("video_decoder", "video_encoder", "audio_decoder")}
    budget = sizes["video_decoder"] + sizes["video_encoder"]
    pipe = Pipeline(tiny_overlay, dtype="fp32", residency=LocalResidency(torch.device("cpu"), budget))
    first, second, third = (pipe.component(name) for name in sizes)
    pipe.residency.use(first)
    pipe.residency.use(second)
    pipe.residency.use(third)
    assert first.loaded_bytes == 0 and third.loaded_bytes == third.size_bytes
    with pytest.raises(OutOfMemoryError, match="smaller size"):
        pipe.residency.use(first, second, third)


def test_loading_can_be_interrupted_and_leaves_nothing(tiny_overlay):
    component = Pipeline(tiny_overlay, device="cpu").component("transformer")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        component.load(torch.device("cpu"), stop)
    assert component.loaded_bytes == 0 and next(component.module.parameters()).is_meta


def test_import_is_cheap():
    code = "import sys, ltx23_core; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'transformers', 'av')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    code = "import sys, ltx23_core.pipeline; sys.exit(any(m in sys.modules for m in ('transformers', 'av', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_overlay_path_is_enough(tiny_overlay):
    assert Pipeline.load(tiny_overlay.path, device="cpu").overlay.id == Overlay.load(tiny_overlay.path).id
