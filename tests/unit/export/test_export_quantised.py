"""Quantised weights in exports: the same parts, read again as the same weights."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ltx23_core import Overlay, export, materialize
from ltx23_core.errors import ExportError
from ltx23_core.overlay.bytes.source import QuantRef, TensorRef, tensor_bytes
from ltx23_core.overlay.export.packed import unpacked
from ltx23_core.overlay.packed.layers import gather
from tests.goldens.harness import GEMMA
from tests.support import quantisers
from tests.support.layouts import Written, comfy_gemma
from tests.support.layouts_quantised import (
    QUANTISED,
    cast_fp8,
    comfy_fp8,
    comfy_int4_convrot,
    official_fp8,
    official_nvfp4,
    old_comfy_fp8,
)
from tests.support.overlay import data, refuses

CASES = [*(("monolith", writer) for writer in QUANTISED),
         *(("split", writer) for writer in (official_fp8, official_nvfp4, old_comfy_fp8, comfy_int4_convrot, cast_fp8))]


def parts_of(overlay: Overlay) -> dict[tuple[str, str], object]:
    """What every tensor is: plain ones by dtype and bytes, quantised ones by format, parameters, and all parts."""
    return {(component, name): (ref.format, ref.shape, dict(ref.parameters),
                                {part: (each.dtype, each.shape, data(each)) for part, each in ref.parts.items()})
            if isinstance(ref, QuantRef) else (ref.dtype, ref.shape, data(ref))
            for component, entry in overlay.components.items() for name, ref in entry.tensors.items()}


@pytest.mark.parametrize(("layout", "writer"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_quantised_weights_come_back_bit_for_bit(layout: str, writer: Callable[[Path], Written],
                                                 tmp_path: Path) -> None:
    written = writer(tmp_path)
    encoder, _ = comfy_gemma(tmp_path / "gemma" / "gemma.safetensors", quantisers.fp8(), {"format": "float8_e4m3fn"})
    source = materialize(written.checkpoint, **{"text_encoder": encoder, "variant": "dev", **written.arguments})
    quantised = [ref for entry in source.components.values() for ref in entry.tensors.values()
                 if isinstance(ref, QuantRef)]
    assert quantised, "not only plain tensors"
    export(source, layout, tmp_path / "out")
    model = tmp_path / "out"
    if layout == "split":
        shutil.copy(GEMMA / "config.json", model / "text_encoders")  # the tiny sizes; 12B needs none
    again = materialize(model if layout == "split" else next(model.glob("*.safetensors")), variant="dev",
                        output=tmp_path / "again.json", **({} if layout == "split" else {"text_encoder": encoder}))
    assert parts_of(again) == parts_of(source)
    for name, entry in source.components.items():
        assert entry.config == again.components[name].config, name


def test_rare_formats_are_described_so_that_they_are_read_again() -> None:
    def part(dtype: str, *shape: int) -> TensorRef:
        return TensorRef(Path("x"), dtype, shape, 0, tensor_bytes(dtype, shape))

    refs = {"a.weight": QuantRef("w4a8", (6, 64), {
                "weight": part("U8", 6, 32), "weight_s_rel": part("F32", 6, 4), "weight_s_channel": part("F32", 6, 1),
                "weight_codebook": part("F32", 16)}, {"group": 16, "rotated": 64}),
            "b.weight": QuantRef("awq", (8, 128), {"weight": part("U8", 8, 64), "weight_scale": part("F32", 2, 8),
                                                   "weight_zero": part("F32", 2, 8)}, {"group": 64}),
            "b.bias": part("BF16", 8)}
    tensors, metadata = unpacked(refs, {"format": "pt", "_quantization_metadata": "of another file"})
    assert metadata["format"] == "pt" and tensors["a.weight"].dtype == "I8" and "b.weight_zero" in tensors
    assert gather(SimpleNamespace(path=Path("x"), tensors=tensors, metadata=metadata)) == refs


def test_fp8_with_and_without_scales_is_not_one_file(tmp_path: Path) -> None:
    """Readers take a missing scale beside others for damage; so do we."""
    cast, scaled = (writer(tmp_path / writer.__name__) for writer in (cast_fp8, comfy_fp8))
    overlay = materialize(cast.checkpoint, **{**cast.arguments, "variant": "dev"})
    name = "transformer_blocks.0.attn1.to_q.weight"
    other = materialize(scaled.checkpoint, **{**scaled.arguments, "variant": "dev"})
    overlay.require("transformer").tensors[name] = other.require("transformer").tensors[name]
    with refuses(ExportError, "fp8 without a scale", "quantised alike"):
        export(overlay, "monolith", tmp_path / "out")
