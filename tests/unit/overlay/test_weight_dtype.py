"""weight_dtype on an overlay: what it changes, what it leaves, and what is said."""
from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.cli.parser import parse
from ltx23_core.errors import RequestError
from ltx23_core.overlay.bytes.source import QuantRef
from ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES, with_weight_dtype
from ltx23_core.runtime.residency import LocalResidency
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support.layouts_quantised import QUANTISED, official_fp8
from tests.support.lora import gguf_overlay
from tests.support.overlay import refuses


@pytest.fixture
def bf16(tmp_path: Path) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, output=tmp_path / "bf16.json")


def test_only_the_transformer_changes_and_the_model_has_another_id(bf16: Overlay) -> None:
    assert with_weight_dtype(bf16, AS_STORED) is bf16
    ids = {bf16.id}
    for form in WEIGHT_DTYPES[1:]:
        made = with_weight_dtype(bf16, form)
        ids.add(made.id)
        assert with_weight_dtype(bf16, form).id == made.id, "results depend on nothing else"
        for name, entry in made.components.items():
            if name != "transformer":
                assert entry is bf16.components[name]
        tensors = made.require("transformer").tensors
        assert tensors.keys() == bf16.require("transformer").tensors.keys()
        quantised = [name for name, ref in tensors.items() if isinstance(ref, QuantRef)]
        assert all(tensors[name].origin is bf16.require("transformer").tensors[name] for name in quantised)
        assert len([name for name in quantised if name.startswith("transformer_blocks.0.")]) == 28
    assert len(ids) == len(WEIGHT_DTYPES), "a resumed run, or a cache, must not mix them"
    assert Overlay.load(bf16.path).id == bf16.id, "the manifest is as it was"


@pytest.mark.parametrize("writer", [*QUANTISED, "gguf"], ids=lambda each: getattr(each, "__name__", each))
def test_what_is_quantised_already_stays(writer: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if writer == "gguf":
        overlay = gguf_overlay(tmp_path)
    else:
        written = writer(tmp_path)
        overlay = materialize(written.checkpoint, **{"text_encoder": GEMMA, "variant": "dev", **written.arguments},
                              output=tmp_path / "o.json")
    with caplog.at_level(logging.WARNING, "ltx23"):
        assert with_weight_dtype(overlay, "Q4_K") is overlay
    assert "weight_dtype Q4_K changes nothing" in caplog.text


def test_wrong_names_are_refused_before_anything_is_read(bf16: Overlay, tmp_path: Path) -> None:
    for wrong in ("fp8", "q4_k", "", None, 8):
        with refuses(RequestError, "one of as stored, fp8_e4m3fn"):
            Pipeline(bf16, weight_dtype=wrong)
    written = official_fp8(tmp_path / "fp8")
    fp8 = materialize(written.checkpoint, GEMMA, **{"variant": "dev", **written.arguments})
    with refuses(RequestError, "weight_dtype is 'int4'"):
        Pipeline(fp8, weight_dtype="int4")


def test_from_a_manifest_and_for_every_precision(bf16: Overlay) -> None:
    cpu = torch.device("cpu")
    for dtype in ("bf16", "fp32"):
        pipe = Pipeline.load(bf16.path, weight_dtype="int8", dtype=dtype, residency=LocalResidency(cpu))
        component = pipe.component("transformer")
        component.load(cpu)
        layer = component.module.transformer_blocks[0].attn1.to_q
        assert layer.weight.dtype == torch.int8 and layer.numbers().dtype == pipe.dtype
        assert component.module.transformer_blocks[0].attn1.to_gate_logits.weight.dtype == pipe.dtype


def test_the_command_line() -> None:
    base = ["generate", "--checkpoint", "x", "--prompt", "y", "-o", "z.mp4"]
    assert parse(base).weight_dtype == AS_STORED
    assert parse([*base, "--weight-dtype", "Q4_K"]).weight_dtype == "Q4_K"
    with pytest.raises(SystemExit):
        parse([*base, "--weight-dtype", "int4"])
