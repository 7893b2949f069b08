"""Blocks that come in one by one give bit for bit what resident weights give, in every form and with every LoRA."""
from __future__ import annotations

import gc
import os
import shutil
import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx23_core import Lora, Overlay, Pipeline, materialize
from ltx23_core.errors import LTX23Error
from ltx23_core.ops import matmul
from ltx23_core.ops.matmul import packed
from ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.policy import Streamed, Whole
from ltx23_core.runtime.residency import LocalResidency
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support import layouts_quantised as forms
from tests.support.layouts import Written
from tests.support.lora import BLOCK, gguf_overlay, plain, write_kinds
from tests.support.vanishing import WAYS, goes

CPU = torch.device("cpu")
RUN = {"recipe": "one_stage", "steps": 1, "width": 64, "height": 64, "frames": 9, "seed": 3}


def pipeline(overlay: Overlay, memory: str, dtype: str = "bf16", weight_dtype: str = AS_STORED) -> Pipeline:
    return Pipeline(overlay, dtype=dtype, residency=LocalResidency(CPU, memory=memory), weight_dtype=weight_dtype)


def results(pipe: Pipeline) -> dict[str, Tensor]:
    context = pipe.encode("a boat on a lake", "noise")
    latents = pipe.sample(context, **RUN)
    return {"context": context.positive.video, "video": latents.video, "audio": latents.audio}


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    for name, value in want.items():
        assert torch.equal(got[name], value), name


FORMS: dict[str, Callable[[Path], Written]] = {
    "fp8": forms.official_fp8, "fp8 rows": forms.comfy_fp8_rows,
    "fp8 squares": forms.comfy_fp8_squares, "fp8 cast": forms.cast_fp8,
    "mxfp8": forms.comfy_mxfp8, "nvfp4": forms.official_nvfp4, "int8": forms.comfy_int8,
    "int8 rotated": forms.comfy_int8_convrot, "int4": forms.comfy_int4_convrot}


def overlay_of(name: str, folder: Path) -> Overlay:
    if name == "gguf":
        return gguf_overlay(folder)
    written = FORMS[name](folder)
    return materialize(written.checkpoint, **({"text_encoder": GEMMA} | written.arguments), output=folder / "o.json")


class Noting(LocalResidency):
    """Notes which components were used with nothing of their blocks on the device, and nothing else beside them."""

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        super().use(*components, activation_bytes=activation_bytes, how=how)
        assert self._resident == list(components), "to stream is to take as little as possible"
        for component in components:
            if component.block_count and component.streamed == component.block_count:
                assert component.loaded_bytes < component.size_bytes
                self.streamed.add(component.name)

    @cached_property
    def streamed(self) -> set[str]:
        return set()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_streamed_equals_resident(tiny_overlay: Overlay, dtype: str) -> None:
    streamed = Pipeline(tiny_overlay, dtype=dtype, residency=Noting(CPU, memory="stream"))
    assert_equal(results(streamed), results(pipeline(tiny_overlay, "resident", dtype)))
    assert streamed.residency.streamed == {"transformer", "text_encoder", "connectors", "text_projection"}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_projections_lie_together_in_a_streamed_block(tiny_overlay: Overlay, dtype: str) -> None:
    """As in a resident one (`ops.matmul`): other products would round otherwise. fp32 is made of the file's bf16."""
    pipe, seen = pipeline(tiny_overlay, "stream", dtype), []
    context, module = pipe.encode("a", "b"), pipe.component("transformer").module
    for block in module.transformer_blocks:
        block.attn1.register_forward_pre_hook(lambda layer, _: seen.append(all(
            packed([layer.get_submodule(name) for name in group]) is not None for group in layer.together)))
    pipe.sample(context, **RUN)
    assert len(seen) >= len(module.transformer_blocks) and all(seen)


@pytest.mark.parametrize("form", [*FORMS, "gguf"])
def test_quantised_forms_stream_with_loras(form: str, tmp_path: Path) -> None:
    overlay = overlay_of(form, tmp_path)
    kinds = write_kinds(tmp_path)
    resident, streamed = pipeline(overlay, "resident"), pipeline(overlay, "stream")
    for loras in ([], [Lora(path, 0.7) for path in kinds.values()], []):
        assert_equal(results(streamed.with_loras(loras)), results(resident.with_loras(loras)))


@pytest.mark.parametrize("form", WEIGHT_DTYPES[1:])
def test_quantised_on_load_streams_with_loras(form: str, tiny_overlay: Overlay, tmp_path: Path) -> None:
    kinds = write_kinds(tmp_path)
    resident, streamed = (pipeline(tiny_overlay, memory, weight_dtype=form) for memory in ("resident", "stream"))
    base = results(pipeline(tiny_overlay, "resident"))
    for loras in ([], [Lora(path, 0.7) for path in kinds.values()], []):
        got = results(streamed.with_loras(loras))
        assert_equal(got, results(resident.with_loras(loras)))
        assert torch.equal(got["context"], base["context"]) and not torch.equal(got["video"], base["video"])
    component = resident.component("transformer")
    assert component.loaded_bytes < 0.75 * pipeline(tiny_overlay, "resident").component("transformer").size_bytes
    component.place(Streamed(2), CPU)
    assert torch.equal(results(resident)["video"], got["video"])


@pytest.mark.parametrize("mode", ["fused", "runtime"])
def test_loras_on_streamed_bf16_blocks(tiny_overlay: Overlay, tmp_path: Path, mode: str) -> None:
    path = plain(tmp_path / "a.safetensors", BLOCK + "attn1.to_q", BLOCK + "ff.net.2", "proj_out")
    resident, streamed = pipeline(tiny_overlay, "resident"), pipeline(tiny_overlay, "stream")
    base = results(resident)
    for strength in (1.0, -0.5, None):
        loras = [] if strength is None else [Lora(path, strength, mode=mode)]
        got = results(streamed.with_loras(loras))
        assert_equal(got, results(resident.with_loras(loras)))
        assert torch.equal(got["video"], base["video"]) == (strength is None)


@pytest.mark.parametrize("streamed", [3, 2, 1])
def test_any_number_of_blocks(tiny_overlay: Overlay, streamed: int) -> None:
    want = results(pipeline(tiny_overlay, "resident"))
    pipe = pipeline(tiny_overlay, "auto")
    component = pipe.component("transformer")
    read = component.bytes_read
    component.place(Streamed(streamed), CPU)
    assert component.bytes_read - read < component.size_bytes
    assert component.streamed == streamed
    loads = component.loads
    component.place(Whole(), CPU)
    assert component.loads == loads and component.loaded_bytes == component.size_bytes
    component.place(Streamed(streamed), CPU)
    latents = pipe.sample(pipe.encode("a boat on a lake", "noise"), **RUN)
    assert torch.equal(latents.video, want["video"])


def test_a_streamed_pipeline_ends_with_its_last_reference(tiny_overlay: Overlay) -> None:
    """Changing a loader's inputs must free the old model before the new one is loaded, without waiting for gc."""
    pipe = pipeline(tiny_overlay, "stream")
    results(pipe)
    module = weakref.ref(pipe.component("transformer").module)
    gc.disable()
    try:
        del pipe
        assert module() is None
    finally:
        gc.enable()


def test_a_block_whose_file_changed_is_refused_and_the_next_run_is_right(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(CHECKPOINT, tmp_path))
    overlay = materialize(checkpoint, GEMMA, output=tmp_path / "o.json")
    pipe = pipeline(overlay, "stream")
    want = results(pipe)
    info, data = checkpoint.stat(), checkpoint.read_bytes()
    os.truncate(checkpoint, len(data) // 20)
    with pytest.raises(LTX23Error):
        results(pipe)
    checkpoint.write_bytes(data)
    os.utime(checkpoint, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert_equal(results(pipe), want)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_plain_gates_lie_beside_quantised_projections(tiny_overlay: Overlay, memory: str) -> None:
    """Quantised on load gate logits stay plain: copied once a block and step, and all passes take one product."""
    pipe = pipeline(tiny_overlay, memory, weight_dtype="int8")
    context, module, seen = pipe.encode("a", "b"), pipe.component("transformer").module, []

    def look(layer: torch.nn.Module, *_: object) -> None:
        gate = layer.to_gate_logits
        first = matmul._gathered([gate, layer.to_q])[0]
        seen.append(first.data_ptr() == gate.product.beside(gate).data_ptr())
        assert torch.equal(first, torch.cat((gate.weight, layer.to_q.numbers())))

    for block in module.transformer_blocks:
        block.attn1.register_forward_hook(look)
    pipe.sample(context, **RUN)
    assert len(seen) >= len(module.transformer_blocks) and all(seen)


@pytest.mark.parametrize("how", WAYS)
def test_a_file_that_goes_while_it_streams(tmp_path: Path, how: str) -> None:
    """Never other numbers: the bytes of the file that was opened, or an error in words; the next run is right."""
    checkpoint = Path(shutil.copy(CHECKPOINT, tmp_path))
    overlay = materialize(checkpoint, GEMMA, output=tmp_path / "o.json")
    pipe, longer = pipeline(overlay, "stream"), RUN | {"steps": 3}
    context = pipe.encode("a boat on a lake", "noise")
    want = pipe.sample(context, **longer)
    pipe.residency.release()
    info, data = checkpoint.stat(), checkpoint.read_bytes()

    try:
        got = pipe.sample(context, **longer, on_step=goes(checkpoint, how))
    except LTX23Error as error:
        assert checkpoint.name in str(error) and "Next: " in str(error)
    else:
        assert how != "cut" and torch.equal(got.video, want.video)
    assert not checkpoint.exists() or checkpoint.read_bytes() != data
    checkpoint.write_bytes(data)
    os.utime(checkpoint, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert torch.equal(pipe.sample(context, **longer).video, want.video)


def follow(parts: list[Tensor]) -> bool:
    return all(second.data_ptr() == first.data_ptr() + first.nbytes
               for first, second in zip(parts, parts[1:], strict=False))


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("form", ["fp8 rows", "int8", "on load"])
def test_codes_of_one_product_lie_behind_each_other(form: str, memory: str, tiny_overlay: Overlay,
                                                     tmp_path: Path) -> None:
    """Queries, keys and values with a scale for each row: products of codes take them without a copy."""
    if form == "on load":
        pipe = pipeline(tiny_overlay, memory, weight_dtype="fp8_e4m3fn")
    else:
        pipe = pipeline(overlay_of(form, tmp_path), memory)
    context, module, seen = pipe.encode("a", "b"), pipe.component("transformer").module, []

    def look(layer: torch.nn.Module, *_: object) -> None:
        parts = [layer.to_q, layer.to_k, layer.to_v]
        codes, scales = zip(*(part.per_row() for part in parts), strict=True)
        seen.append(follow(list(codes)) and follow(list(scales)))
        assert matmul._joined(codes) is not None or not seen[-1]

    for block in module.transformer_blocks:
        block.attn1.register_forward_hook(look)
    pipe.sample(context, **RUN)
    if form == "on load" and memory == "stream":
        return  # they are made one by one there, and copied together
    assert len(seen) >= len(module.transformer_blocks) and all(seen)
