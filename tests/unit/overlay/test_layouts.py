"""The tiny model in every layout: what is recognised, bit-equal tensors, and a whole run of each."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.models.registry import build
from ltx23_core.runtime.load import load_module
from ltx23_core.weights.reader import read_tensors
from tests.goldens import cases_sampling
from tests.goldens.harness import CHECKPOINT, GEMMA, HANDLERS, Case
from tests.support.layouts import UNQUANTISED, Written
from tests.support.layouts_quantised import QUANTISED

CLOSE = {"nvfp4": 0.3, "int4": 0.6, "int8": 0.03}  # by bits; fp8 gets 0.15. A wrong formula gives 1 and more
RUN = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, output=tmp_path_factory.mktemp("official") / "o.json")


def run(overlay: Overlay, decode: bool = True) -> dict[str, torch.Tensor]:
    """Prompt to latents, and decoded pixels and sound, in float32."""
    pipe = Pipeline(overlay, device="cpu", dtype="fp32")
    latents = pipe.sample(pipe.encode("a boat on a lake", "noise"), **RUN)
    result = {"video": latents.video, "audio": latents.audio}
    return result if not decode else result | {
        "pixels": torch.cat(list(pipe.decode_video(latents.video))),
        "sound": pipe.decode_audio(latents.audio).waveform}


@pytest.fixture(scope="module")
def reference(official: Overlay) -> dict[str, torch.Tensor]:
    return run(official)


def made(writer: object, folder: Path) -> tuple[Overlay, Written]:
    written = writer(folder)
    arguments = {"text_encoder": GEMMA, "output": folder / "overlay.json", **written.arguments}
    return materialize(written.checkpoint, **arguments), written


def tensors(overlay: Overlay, component: str) -> dict[str, torch.Tensor]:
    return dict(read_tensors(overlay.require(component).tensors, "cpu", torch.float32))


@pytest.mark.parametrize("writer", [*UNQUANTISED, *QUANTISED], ids=lambda writer: writer.__name__)
def test_layout(writer: object, official: Overlay, reference: dict, tmp_path: Path) -> None:
    overlay, written = made(writer, tmp_path)
    assert overlay.layout == written.layout
    assert Overlay.load(overlay.path) == overlay
    assert set(overlay.components) >= set(official.components) - {"text_encoder_vision"}
    for component in set(official.components) - {"text_encoder_vision"}:
        want, got = tensors(official, component), tensors(overlay, component)
        want |= {name: value for (place, name), value in written.numbers.items() if place == component}
        assert set(got) == set(want)
        wrong = [name for name in want if not torch.equal(got[name], want[name].float())]
        assert not wrong, f"{component}: {wrong}"
    for name, got in run(overlay, decode=writer in UNQUANTISED).items():
        want = reference[name]
        error = ((got - want).norm() / want.norm()).item()
        print(f"{writer.__name__} {name}: relative error {error:.4f}")
        allowed = next((value for kind, value in CLOSE.items() if kind in writer.__name__), 0.15)
        assert error < allowed if writer in QUANTISED else torch.equal(got, want), name


@pytest.mark.parametrize("writer", UNQUANTISED, ids=lambda writer: writer.__name__)
def test_golden_run(writer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt to frames and sound equals the official implementation's, in every layout."""
    overlay, _ = made(writer, tmp_path)
    pipe = Pipeline(overlay, device="cpu", dtype="fp32")
    transformer = build("transformer", overlay.require("transformer").config)
    load_module(transformer, overlay.require("transformer").tensors, "cpu", torch.float32)
    monkeypatch.setattr(cases_sampling, "pipeline", lambda: pipe)
    monkeypatch.setattr(cases_sampling, "module", {"transformer": transformer}.__getitem__)
    golden = Case("pipeline_t2av")
    HANDLERS["pipeline_t2av"](golden)
    golden.finish()
