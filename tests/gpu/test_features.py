"""Recipes, solvers, guidance, conditions and LoRAs on a GPU: against the CPU, twice the same, and without waiting."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)

from bench.one_stage import relative
from ltx23_core import (
    Audio,
    Extend,
    Guidance,
    ImageCondition,
    Lora,
    Nag,
    Pipeline,
    Retake,
    Solver,
    SourceAudio,
    SourceClip,
    Windows,
    materialize,
)
from ltx23_core.plan.recipes import official_guidance
from ltx23_core.run import stage as run_module

TINY = Path(__file__).resolve().parents[1] / "goldens" / "tiny"
LORA = TINY / "ltx-2.3-tiny-distilled-lora.safetensors"
SIZE = {"width": 128, "height": 64, "frames": 17, "seed": 5}
CLIP = torch.rand(17, 64, 128, 3, generator=torch.Generator().manual_seed(2))
SOUND = Audio(torch.randn(1, 2, 40000, generator=torch.Generator().manual_seed(3)) * 0.1, 48000)


def with_nag(layers: int) -> Guidance:
    return official_guidance(layers).with_options(nag=Nag())


CASES: dict[str, dict] = {
    "one_stage": {"recipe": "one_stage", "steps": 3}, "two_stage": {"recipe": "two_stage", "steps": 3},
    "hq": {"recipe": "hq", "steps": 3}, "distilled": {"recipe": "distilled"},
    "ancestral": {"recipe": "distilled_one_stage", "solver": Solver("euler_ancestral")},
    "cfg_pp": {"recipe": "one_stage", "steps": 3, "solver": Solver("euler_ancestral_cfg_pp")},
    "gradient_estimation": {"recipe": "one_stage", "steps": 3, "solver": Solver("gradient_estimation")},
    "nag": {"recipe": "one_stage", "steps": 3, "guidance": with_nag(4)},
    "image": {"recipe": "one_stage", "steps": 3,
              "conditions": [ImageCondition(CLIP[0], crf=0), ImageCondition(CLIP[8], -1, crf=0)]},
    "audio_to_video": {"recipe": "two_stage", "steps": 2, "conditions": [SourceAudio(SOUND)]},
    "retake": {"recipe": "distilled", "conditions": [Retake(SourceClip(CLIP, SOUND), 0.2, 0.5)]},
    "extend": {"recipe": "one_stage", "steps": 2, "frames": 33, "conditions": [Extend(SourceClip(CLIP, SOUND))]},
    "long": {"recipe": "one_stage", "steps": 2, "frames": 33, "windows": Windows(17, 8)},
    "sound_alone": {"recipe": "one_stage", "steps": 3, "streams": "audio"},
}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory) -> dict[str, Pipeline]:
    overlay = materialize(TINY / "ltx-2.3-tiny.safetensors", TINY / "gemma", distilled_lora=LORA,
                          upsamplers=sorted(TINY.glob("*-upscaler-*.safetensors")),
                          output=tmp_path_factory.mktemp("overlay") / "tiny.json")
    return {name: Pipeline(overlay, device=device, dtype=dtype) for name, device, dtype in (
        ("cpu", "cpu", "fp32"), ("cuda", "cuda", "fp32"), ("bf16", "cuda", "bf16"))}


def sampled(pipe: Pipeline, name: str, **options):
    return pipe.sample(pipe.encode("a boat on a lake", "noise"), **{**SIZE, **CASES[name], **options})


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_the_cpu_on_the_same_noise(pipelines, name):
    """noise_device="cpu": one seed means one result on every device."""
    want, got = (sampled(pipelines[device], name, noise_device="cpu") for device in ("cpu", "cuda"))
    for kind in ("video", "audio"):
        if getattr(want, kind) is not None:
            error = relative(getattr(got, kind), getattr(want, kind))
            print(f"{name} {kind}: {error:.1e}")
            assert error < 1e-3, f"{name} {kind}"


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_bytes_twice(pipelines, name):
    first, second = (sampled(pipelines["bf16"], name) for _ in range(2))
    for kind in ("video", "audio"):
        if getattr(first, kind) is not None:
            assert torch.equal(getattr(first, kind), getattr(second, kind)), kind
            assert getattr(first, kind).isfinite().all()


def test_each_of_a_batch_is_its_single_run(pipelines):
    batch = sampled(pipelines["bf16"], "distilled", batch=2)
    assert torch.equal(batch.video[1:], sampled(pipelines["bf16"], "distilled", seed=SIZE["seed"] + 1).video)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Anything that makes the host wait for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_device(pipelines, name, monkeypatch):
    """The loop of every solver, with previews, under torch's own watch."""
    pipe, solve, loops = pipelines["bf16"], run_module.solve, []
    sampled(pipe, name)  # loads, fits the preview map

    def watched(*arguments, **options):
        loops.append(1)
        with no_waiting():
            return solve(*arguments, **options)

    monkeypatch.setattr(run_module, "solve", watched)
    sampled(pipe, name, on_step=lambda info: None)
    assert loops


def test_switching_loras_is_exact(pipelines):
    pipe = pipelines["bf16"]
    base = sampled(pipe, "one_stage")
    for mode in ("fused", "runtime"):
        changed = sampled(pipe.with_loras([Lora(LORA, 0.7, mode=mode)]), "one_stage")
        assert not torch.equal(changed.video, base.video)
        assert torch.equal(sampled(pipe, "one_stage").video, base.video), mode
    assert pipe.component("transformer").loads == 1
