"""The official files in their true size: names, shapes, time and memory."""
from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from ltx23_core.models.registry import BUILDERS, build
from ltx23_core.overlay import Overlay, materialize
from ltx23_core.overlay.names.architecture import expected_tensors
from ltx23_core.overlay.names.layout import OFFICIAL
from tests.support.overlay import (
    GEMMA_4B,
    GEMMA_12B,
    checkpoint_22b,
    gemma_folder,
    lora_22b,
    manifest_22b,
    upscalers_22b,
)
from tests.support.speed import within

REPO = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every official file, 90 GB long and a few MB large."""
    folder = tmp_path_factory.mktemp("22b")
    checkpoint_22b(folder / "ltx-2.3-22b-dev.safetensors")
    gemma_folder(folder / "gemma")
    upscalers_22b(folder)
    lora_22b(folder / "lora.safetensors")
    return folder


@pytest.fixture(scope="module")
def overlay(files: Path) -> Overlay:
    return materialize(files / "ltx-2.3-22b-dev.safetensors", files / "gemma",
                       upsamplers=sorted(files.glob("*upscaler*")), distilled_lora=files / "lora.safetensors")


def shapes(component: str, config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole module on the meta device, without the overlay's short cuts."""
    module = build(component, config)
    assert all(p.is_meta for p in module.parameters())
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("component", OFFICIAL.components)
def test_module_matches_manifest(component: str, overlay: Overlay) -> None:
    want = {}
    for key, (_, *shape) in manifest_22b()["tensors"].items():
        want |= {name: tuple(shape) for place, name in OFFICIAL.places(key) if place == component}
    assert want
    assert shapes(component, overlay.require(component).config) == want


def test_every_tensor_of_the_manifest_has_a_place() -> None:
    assert [key for key in manifest_22b()["tensors"] if not OFFICIAL.places(key)] == []


@pytest.mark.parametrize("file", list(manifest_22b()["upscalers"]))
def test_upscaler_matches_manifest(file: str) -> None:
    entry = manifest_22b()["upscalers"][file]
    assert shapes("upsampler_x2", entry["metadata_config"]) == {n: tuple(e[1:]) for n, e in entry["tensors"].items()}


@pytest.mark.parametrize("config", [GEMMA_12B, GEMMA_4B], ids=["12B", "4B"])
def test_gemma_arithmetic_equals_transformers(config: dict) -> None:
    assert shapes("text_encoder", config) == expected_tensors("text_encoder", config)


def test_gemma_12b_has_its_known_size() -> None:
    assert sum(map(prod, expected_tensors("text_encoder", GEMMA_12B).values())) == pytest.approx(11.766e9, rel=1e-4)


def test_short_cut_equals_whole_module(overlay: Overlay) -> None:
    config = overlay.require("transformer").config
    assert expected_tensors("transformer", config) == shapes("transformer", config)


def test_overlay_has_every_component(overlay: Overlay) -> None:
    assert set(overlay.components) == {*BUILDERS, "text_encoder_vision", "distilled_lora"}
    assert overlay.variant == "dev" and overlay.model_version == "2.3.0"
    known = manifest_22b()["distilled_lora_384"]
    lora = overlay.require("distilled_lora")
    assert (len(lora.tensors), lora.size_bytes) == (known["tensors"], known["bytes_if_rank_is_min_384_in_out"])
    once = {ref for name in OFFICIAL.components for ref in overlay.require(name).tensors.values()}
    assert (len(once), sum(ref.size_bytes for ref in once)) == (manifest_22b()["num_tensors"],
                                                                manifest_22b()["data_bytes"])
    print(overlay.report())


# Only standard library and torch are imported before the clock starts.
_MEASURE = """
import json, sys, time
import torch
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
arguments = json.loads(sys.argv[1])
before, start = kilobytes("VmRSS"), time.process_time()
from ltx23_core.overlay import materialize
overlay = materialize(**arguments)
seconds = time.process_time() - start
growth = (kilobytes("VmHWM") - before) * 1024  # the peak, not what is left
print(json.dumps({"seconds": seconds, "growth": growth, "transformers": "transformers" in sys.modules}))
"""


def measure(**arguments: object) -> dict:
    """Materialise in a fresh process."""
    return json.loads(subprocess.run([sys.executable, "-c", _MEASURE, json.dumps(arguments, default=str)], cwd=REPO,
                                     check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: memory is read from /proc")
@pytest.mark.parametrize("complete", [False, True], ids=["checkpoint", "all files"])
def test_time_memory_and_bytes(files: Path, tmp_path: Path, complete: bool) -> None:
    checkpoint, output = files / "ltx-2.3-22b-dev.safetensors", tmp_path / "overlay.json"
    assert checkpoint.stat().st_size > 46e9
    more = {"upsamplers": [str(p) for p in sorted(files.glob("*upscaler*"))],
            "distilled_lora": files / "lora.safetensors"} if complete else {}
    results = []

    def run() -> float:
        results.append(measure(checkpoint=checkpoint, text_encoder=files / "gemma", output=output, **more))
        return results[-1]["seconds"]

    assert within(1, run)
    print(f"{results}, manifest {output.stat().st_size} bytes")
    assert all(result["growth"] < 200e6 and not result["transformers"] for result in results)
    assert [p.name for p in tmp_path.iterdir()] == ["overlay.json"]
    assert output.stat().st_size < 4e6
    on_disk = sum(p.stat().st_blocks * 512 for p in files.rglob("*") if p.is_file())
    assert on_disk < 20e6, "weights were written"
