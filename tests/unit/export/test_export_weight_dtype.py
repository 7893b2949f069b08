"""Quantised files: what is written loads bit for bit as quantising on load makes it, and others read it."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ltx23_core import Overlay, Pipeline, export, materialize
from ltx23_core.cli.parser import main
from ltx23_core.errors import ExportError, RequestError
from ltx23_core.overlay.weight_dtype import AS_STORED, GGUF, WEIGHT_DTYPES
from ltx23_core.runtime.residency import LocalResidency
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support.gguf import gguf
from tests.support.layouts import split_bare
from tests.support.layouts_quantised import official_fp8
from tests.support.overlay import refuses

FORMS = WEIGHT_DTYPES[1:]
CASES = [*((form, "split") for form in FORMS), *((form, "transformer") for form in FORMS),
         *((form, "monolith") for form in FORMS if form not in GGUF)]


@pytest.fixture
def bf16(tmp_path: Path) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, output=tmp_path / "bf16.json")


def state(overlay: Overlay, component: str = "transformer", **options: str) -> dict[str, torch.Tensor]:
    """All tensors of a component as they are loaded on the CPU."""
    pipe = Pipeline(overlay, residency=LocalResidency(torch.device("cpu")), dtype="bf16", **options)
    loaded = pipe.component(component)
    loaded.load(torch.device("cpu"))
    return loaded.module.state_dict()


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name].float(), tensor.float()), name


def only_file(folder: Path, *kinds: str) -> Path:
    [found] = [path for path in folder.rglob("*") if path.suffix in kinds and "lora" not in path.name]
    return found


@pytest.mark.parametrize(("form", "layout"), CASES)
def test_what_is_written_loads_as_quantising_on_load_makes_it(form: str, layout: str, bf16: Overlay,
                                                              tmp_path: Path) -> None:
    report = export(bf16, layout, tmp_path / "out", weight_dtype=form)
    assert all(file.sha256 for file in report.files) and form in str(report)
    if layout == "monolith":
        again = materialize(only_file(tmp_path / "out", ".safetensors"), GEMMA, output=tmp_path / "again.json")
    else:
        file = only_file(tmp_path / "out" / "diffusion_models", ".safetensors", ".gguf")
        # Later files replace what earlier ones bring.
        again = materialize(CHECKPOINT, GEMMA, components=[file], output=tmp_path / "again.json")
    got = state(again)
    assert_same(got, state(bf16, weight_dtype=form))
    quantised = [name for name, tensor in got.items() if tensor.dtype != torch.bfloat16]
    assert len(quantised) >= 100
    for component in ("connectors", "video_decoder", "vocoder"):
        assert_same(state(again, component), state(bf16, component))
    assert again.require("transformer").config == bf16.require("transformer").config


@pytest.mark.parametrize("form", [AS_STORED, "int8", *GGUF])
@pytest.mark.parametrize("variant", ["dev", "distilled"])
def test_a_transformer_without_connectors_is_saved_without(form: str, variant: str, tmp_path: Path) -> None:
    """Third parties' "light" files: what is written goes beside connectors as its source does."""
    source = split_bare(tmp_path).checkpoint
    light = materialize(source, variant=variant, output=tmp_path / "light.json")
    assert "connectors" not in light.components
    export(light, "transformer", tmp_path / "out", weight_dtype=form)
    file = only_file(tmp_path / "out", ".safetensors", ".gguf")
    assert ("distilled" in file.name) == (variant == "distilled")
    alone = materialize(file, variant=variant, output=tmp_path / "alone.json")
    assert_same(state(alone), state(light, weight_dtype=form))
    assert alone.require("transformer").config == light.require("transformer").config
    whole = materialize(file, variant=variant, components=[tmp_path / "b.safetensors"], output=tmp_path / "whole.json")
    want = materialize(source, variant=variant, components=[tmp_path / "b.safetensors"], output=tmp_path / "want.json")
    assert_same(state(whole, "connectors"), state(want, "connectors"))


@pytest.mark.parametrize("form", GGUF)
def test_the_gguf_package_reads_the_file(form: str, bf16: Overlay, tmp_path: Path) -> None:
    export(bf16, "transformer", tmp_path / "out", weight_dtype=form)
    reader = gguf.GGUFReader(only_file(tmp_path / "out", ".gguf"))
    want = state(bf16, weight_dtype=form)
    seen = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        seen[kind] = seen.get(kind, 0) + 1
        assert tensor.data_offset % 32 == 0
        name = tensor.name
        if "_connector." not in name and kind == form:
            assert torch.equal(torch.from_numpy(tensor.data.copy()), want[name]), name
        if not name.endswith(".weight") or len(tensor.shape) == 1:
            assert kind == "F32", name  # ComfyUI's loader adds these as they are
    assert form in seen and seen["F32"] > 100
    text = reader.get_field("general.architecture")
    assert bytes(text.parts[text.data[0]]) == b"ltxv"
    assert reader.get_field("config") is not None and reader.get_field("general.quantization_version") is not None


def test_an_interrupted_export_goes_on(bf16: Overlay, tmp_path: Path) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(bf16, "transformer", tmp_path / "out", weight_dtype="int8", check=stop)
    assert only_file(tmp_path / "out", ".partial").stat().st_size > 0
    export(bf16, "transformer", tmp_path / "out", weight_dtype="int8")
    export(bf16, "transformer", tmp_path / "whole", weight_dtype="int8")
    first, second = (only_file(tmp_path / name, ".safetensors") for name in ("out", "whole"))
    assert first.read_bytes() == second.read_bytes()


def test_another_weight_dtype_is_another_export(bf16: Overlay, tmp_path: Path) -> None:
    export(bf16, "transformer", tmp_path / "out", weight_dtype="int8")
    with refuses(ExportError, "holds another export"):
        export(bf16, "transformer", tmp_path / "out", weight_dtype="fp8_e4m3fn")


def test_what_cannot_be_is_refused_before_anything_is_written(bf16: Overlay, tmp_path: Path) -> None:
    written = official_fp8(tmp_path / "fp8")
    fp8 = materialize(written.checkpoint, GEMMA, **{"variant": "dev", **written.arguments})
    for overlay, layout, form, error, words in (
            (fp8, "split", "Q4_K", ExportError, "fp8 in its file"),
            (bf16, "diffusers", "int8", ExportError, "diffusers has no such weights"),
            (bf16, "monolith", "Q4_K", ExportError, "cannot hold a VAE"),
            (bf16, "split", "Q3_K", RequestError, "one of as stored, fp8_e4m3fn")):
        with refuses(error, words):
            export(overlay, layout, tmp_path / "out", weight_dtype=form)
    assert not os.path.exists(tmp_path / "out")


def test_a_source_that_changes_is_refused(bf16: Overlay, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(CHECKPOINT.read_bytes())
    overlay = materialize(copy, GEMMA, output=tmp_path / "o.json", variant="dev")
    os.utime(copy, ns=(1, 1))
    with refuses(Exception, "changed after the overlay was made"):
        export(overlay, "transformer", tmp_path / "out", weight_dtype="int8")


def test_the_command_line(bf16: Overlay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["export", "--overlay", str(bf16.path), "--layout", "transformer", "--weight-dtype", "Q8_0",
                 "--device", "cpu", "--quiet", "-o", str(tmp_path / "out")])
    assert code == 0 and "Q8_0.gguf" in capsys.readouterr().out
