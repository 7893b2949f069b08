"""GGUF beside other files: folders, shards, vision parts, endings in capitals."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ltx23_core import Overlay, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.overlay.find.folders import find
from ltx23_core.overlay.find.text_encoder import find_text_encoder
from ltx23_core.overlay.lora.dialects import read_lora
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.weights.reader import RangeReader, read_tensors
from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tests.support.gguf import finish, gemma_gguf, gguf, transformer_gguf, write_tensor
from tests.support.layouts import save
from tests.support.overlay import refuses


def split(path: Path, count: int) -> None:
    """What llama.cpp's gguf-split makes of a file: the first part has the values, the others only their number."""
    reader = gguf.GGUFReader(path)
    stem, tensors = path.with_suffix(""), reader.tensors
    for number in range(count):
        name = stem.with_name(f"{stem.name}-{number + 1:05}-of-{count:05}.gguf")
        writer = gguf.GGUFWriter(name, "gemma3" if number == 0 else "")
        if number == 0:
            _copy_values(reader, writer)
        else:
            writer.kv_data[0].pop("general.architecture", None)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        for tensor in tensors[number::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    path.unlink()


def _copy_values(reader: object, writer: object) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, inner)


def mmproj(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    for name in ("v.blk.0.attn_q.weight", "v.patch_embd.weight", "mm.input_projection.weight"):
        writer.add_tensor(name, np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def numbers(folder: Path, path: Path) -> dict[str, torch.Tensor]:
    overlay = materialize(CHECKPOINT, path, output=folder / "o.json")
    return dict(read_tensors(overlay.require("text_encoder").tensors, "cpu", torch.float32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "gemma-3-12b-it-Q8_0.gguf"
    gemma_gguf(path)
    return path


@pytest.mark.parametrize("config", [False, True], ids=["alone", "config.json beside it"])
def test_folder_with_a_gguf_and_its_vision_part(config: bool, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gemma-3-12b-it-GGUF"
    folder.mkdir()
    shutil.copy(whole, folder)
    mmproj(folder / "mmproj-BF16.gguf")
    if config:
        shutil.copy(GEMMA / "config.json", folder)
    found = find_text_encoder(folder)
    assert found.files.headers[0].path.name == whole.name and "tokenizer" in found.components
    (part,) = find(folder)
    assert "mmproj-BF16.gguf (the vision part of a text encoder (mmproj, GGUF))" in " ".join(part.notes)
    said = identify(folder)
    assert (said.path, said.kind, said.usable) == (folder, "text_encoder", True), said.sentence


def test_vision_part_alone_is_named(tmp_path: Path) -> None:
    mmproj(tmp_path / "mmproj.gguf")
    with refuses(OverlayError, "is the vision part of a text encoder (mmproj, GGUF)"):
        materialize(CHECKPOINT, tmp_path / "mmproj.gguf", output=tmp_path / "o.json")


@pytest.mark.parametrize("given", ["first", "second", "folder"])
def test_split_gguf(given: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    shutil.copy(whole, folder)
    split(folder / whole.name, 3)
    parts = sorted(folder.iterdir())
    path = {"first": parts[0], "second": parts[1], "folder": folder}[given]
    got, want = numbers(tmp_path, path), numbers(tmp_path, whole)
    assert set(got) == set(want) and all(torch.equal(got[name], want[name]) for name in want)
    said, alone = identify(path), identify(whole)
    assert said.usable and "3 shards" in said.sentence, said.sentence
    assert (said.path, said.kind, said.brings, said.dtypes) == (path, alone.kind, alone.brings, alone.dtypes)
    parts[1].unlink()
    assert identify(parts[0]).kind == identify(folder).kind == "incomplete"
    with refuses(OverlayError, "lacks 1 of 3 shards", parts[1].name):
        materialize(CHECKPOINT, parts[0], output=tmp_path / "o.json")


def test_several_quantisations_in_one_folder_are_named(whole: Path, tmp_path: Path) -> None:
    for name in ("a-Q8_0.gguf", "b-Q4_0.gguf"):
        shutil.copy(whole, tmp_path / name)
    with refuses(OverlayError, "has 2 text encoders: a-Q8_0.gguf, b-Q4_0.gguf"):
        find_text_encoder(tmp_path)


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".Safetensors", ".SFT"])
def test_endings_in_capitals(ending: str, tmp_path: Path) -> None:
    shutil.copy(CHECKPOINT, tmp_path / f"ltx-2.3-22b-dev{ending}")
    (part,) = find(tmp_path)
    overlay = materialize(tmp_path, GEMMA, output=tmp_path / "o.json")
    assert part.path.suffix == ending and overlay.require("transformer").tensors


def test_gguf_in_capitals(tmp_path: Path) -> None:
    transformer_gguf(tmp_path / "LTX-2.3-DISTILLED-Q8_0.GGUF")
    (part,) = find(tmp_path)
    assert set(part.components) == {"transformer", "connectors"}


def test_gemma_folder_in_capitals(tmp_path: Path) -> None:
    folder = tmp_path / "gemma"
    shutil.copytree(GEMMA, folder)
    (folder / "model.safetensors").rename(folder / "model.SAFETENSORS")
    assert find_text_encoder(folder).components["text_encoder"]


def test_mlx_is_named(tmp_path: Path) -> None:
    """Apple's 4-bit files: eight numbers a word, scales and biases of groups."""
    names = [f"language_model.model.layers.0.{name}" for name in (
        "self_attn.q_norm.weight", "post_feedforward_layernorm.weight", "input_layernorm.weight")]
    state = {name: torch.ones(8, dtype=torch.bfloat16) for name in names}
    base = "language_model.model.layers.0.mlp.up_proj."
    state |= {base + "weight": torch.zeros(64, 8, dtype=torch.uint32),
              base + "scales": torch.ones(64, 1), base + "biases": torch.ones(64, 1)}
    path = save(state, tmp_path / "model.safetensors")
    shutil.copy(GEMMA / "config.json", tmp_path)
    for given in (path, tmp_path):
        with refuses(OverlayError, "quantised weights that cannot be read", "MLX"):
            materialize(CHECKPOINT, given, output=tmp_path / "o.json")


# --- LoRAs

@pytest.mark.parametrize(("kind", "llama"), [("Q8_0", False), ("F16", False), ("F16", True), ("BF16", False)])
def test_distilled_lora(kind: str, llama: bool, tmp_path: Path) -> None:
    """Converters keep the official names, or write llama.cpp's endings; matrices are quantised where rows allow."""
    source = companion("distilled-lora")
    path = tmp_path / f"ltx-2.3-22b-distilled-lora-384-{kind}.gguf"
    writer, want = gguf.GGUFWriter(path, "ltxv"), {}
    if llama:
        writer.add_float32("adapter.lora.alpha", 2.0)
    for key, tensor in read_tensors(read_header(source).tensors, "cpu", torch.float32):
        name = key.replace("lora_A.weight", "weight.lora_a").replace("lora_B.weight", "weight.lora_b") if llama else key
        fits = kind if tensor.shape[1] % 32 == 0 else "F16"
        want[key.removeprefix("diffusion_model.")] = write_tensor(writer, name, tensor, fits)
    finish(writer)
    shapes = {"transformer": {name: ref.shape for name, ref in materialize(
        CHECKPOINT, output=tmp_path / "o.json").require("transformer").tensors.items()}}
    lora = read_lora(path, shapes)
    assert not lora.unused and len(lora.updates["transformer"]) == len(want) // 2
    reader = RangeReader(torch.device("cpu"))
    for name, update in lora.updates["transformer"].items():
        module = name.removesuffix("weight")
        for role, ending in (("a", "lora_A.weight"), ("b", "lora_B.weight")):
            got = reader.read(update.tensors[role], torch.float32).numpy()
            assert np.allclose(got, want[module + ending], atol=1e-6), (name, role)
        assert update.alpha == (2.0 if llama else None)
    reader.close()
    found = identify(path)
    assert found.usable and "distilled_lora" in found.brings, found.sentence
    if not llama:
        overlay = materialize(CHECKPOINT, distilled_lora=path, output=tmp_path / "o.json")
        entry = overlay.require("distilled_lora")
        assert Overlay.load(overlay.path) == overlay
        assert set(entry.tensors) == set(want)
