"""Files that are not what their name says, and damaged headers."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx23_core.errors import OverlayError
from ltx23_core.overlay.bytes.header import MAX_HEADER, read_header, read_json
from ltx23_core.overlay.names.gemma import split_gemma
from ltx23_core.overlay.names.recognise import recognise
from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tests.support.overlay import refuses, tiny_parts

POINTER = (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46149000000\n")

FOREIGN = {
    "empty": (b"", "empty"),
    "git lfs pointer": (POINTER, "Git LFS pointer", "46149000000", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html><head>" + b"x" * 9000, "web page", "/resolve/"),
    "lower-case web page": (b"\n<html lang=en>", "web page"),
    "json error": (b'{"error":"Repository not found"}', "error message"),
    "gated": (b"Access to model google/gemma-3-12b-it is restricted.", "error message", "licence"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 90, "GGUF"),
    "zip pickle": (b"PK\x03\x04" + b"\0" * 90, "pickle"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF" + b"\0" * 90, "pickle"),
    "short text": (b"Not here, sorry.", "short text"),
    "noise": (bytes(range(128, 256)) * 40, "not a safetensors file"),
    "absurd length": ((MAX_HEADER + 1).to_bytes(8, "little") + b"{" + b" " * 90, "not a safetensors file"),
    "cut in the header": ((900).to_bytes(8, "little") + b'{"a":' + b" " * 90, "truncated", "header alone needs 908"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_named(name: str, tmp_path: Path) -> None:
    content, *texts = FOREIGN[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with refuses(OverlayError, str(path), *texts):
        read_header(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with refuses(OverlayError, "none.safetensors", "cannot be read"):
        read_header(tmp_path / "none.safetensors")
    with refuses(OverlayError, str(tmp_path), "cannot be read"):
        read_header(tmp_path)


def entry(start: int, end: int, **other: object) -> dict[str, object]:
    return {"dtype": "BF16", "shape": [2, 4], "data_offsets": [start, end], **other}


HEADERS = {
    "not an object": ([1], "not a safetensors file"),
    "unknown dtype": ({"a": entry(0, 16, dtype="BF17")}, "a has the unknown dtype 'BF17'"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 1]}}, "unknown dtype nothing"),
    "dtype of another type": ({"a": entry(0, 16, dtype=["BF16"])}, "unknown dtype"),
    "negative shape": ({"a": entry(0, 16, shape=[-2, -4])}, "a shape that is none"),
    "fractional shape": ({"a": entry(0, 16, shape=[2.0, 4])}, "a shape that is none"),
    "boolean shape": ({"a": entry(0, 16, shape=[True, 8])}, "shape"),
    "shape is no list": ({"a": entry(0, 16, shape=8)}, "a shape that is none"),
    "wrong size": ({"a": entry(0, 12)}, "needs 16 bytes", "give 12"),
    "backwards": ({"a": entry(16, 0)}, "give -16"),
    "huge": ({"a": entry(0, 16, shape=[1 << 62, 1 << 62])}, "needs"),
    "three offsets": ({"a": {**entry(0, 16), "data_offsets": [0, 8, 16]}}, "offsets"),
    "overlap": ({"a": entry(0, 16), "b": entry(8, 24)}, "b overlaps a"),
    "gap": ({"a": entry(0, 16), "b": entry(32, 48)}, "a gap between a and b"),
    "tensor is no object": ({"a": 5}, "not described by an object"),
    "metadata is no table": ({"__metadata__": {"n": 5}, "a": entry(0, 16)}, "metadata"),
    "past the end": ({"a": entry(0, 16), "b": entry(16, 32)}, "truncated", "8 are missing"),
    "rest": ({"a": entry(0, 16)}, "8 bytes after its last tensor"),
}


def write(path: Path, header: object, data: int = 24) -> Path:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * data)
    return path


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_headers_are_refused(name: str, tmp_path: Path) -> None:
    header, *texts = HEADERS[name]
    with refuses(OverlayError, *texts):
        read_header(write(tmp_path / "model.safetensors", header))


@pytest.mark.parametrize("text", [b"{" + b"[" * 200_000, b'{"a": }', b'{"\xff": 1}', b'{"a": 1' + b"0" * 9000 + b"}"])
def test_broken_json_is_refused(text: bytes, tmp_path: Path) -> None:
    with refuses(OverlayError, "damaged header"):
        read_header(write(tmp_path / "model.safetensors", text))


def test_header_lengths_like_a_pickle_or_zip_are_fine(tmp_path: Path) -> None:
    for length in (0x280, 0x380):  # the file begins with 80 02, 80 03
        text = json.dumps({"a": entry(0, 16)}).encode().ljust(length)
        assert list(read_header(write(tmp_path / "m.safetensors", text, 16)).tensors) == ["a"]


def test_ranges_are_absolute_and_equal_the_safetensors_library() -> None:
    from safetensors import safe_open

    header = read_header(CHECKPOINT)
    with safe_open(CHECKPOINT, framework="pt") as file:
        assert {k: ref.shape for k, ref in header.tensors.items()} == {
            k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}
        assert header.metadata == file.metadata()
    assert max(ref.end for ref in header.tensors.values()) == CHECKPOINT.stat().st_size


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 200_000], ids=["empty", "list", "cut", "deep"])
def test_json_side_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with refuses(OverlayError, "config.json"):
        read_json(tmp_path / "config.json")


def test_known_kinds() -> None:
    names, _ = tiny_parts()
    bare = [n.removeprefix("model.diffusion_model.") for n in names if n.startswith("model.diffusion_model.")]
    assert recognise(names).name == "an LTX-2.3 single-file checkpoint"
    assert recognise(bare).name == "an LTX-2.3 transformer alone"
    assert recognise([n for n in names if n.startswith("vae.")]).name == "an LTX video VAE alone"
    assert recognise([n for n in names if n.startswith(("audio_vae.", "vocoder."))]).name == "an LTX audio VAE alone"
    assert recognise([n for n in names if n.startswith("text_emb")]).name == "an LTX-2.3 text projection alone"
    assert recognise([*names, "model.diffusion_model.x.weight_scale"]).name.endswith("quantised weights")
    assert recognise([n for n in names if "audio" not in n]).name == "an LTX-2.3 checkpoint without audio"
    for file, kind in ((companion("distilled-lora"), "a LoRA"), (companion("spatial-upscaler-x2"), "a latent upscaler"),
                       (GEMMA / "model.safetensors", "a Gemma 3 text encoder")):
        assert recognise(read_header(file).tensors).name == kind
    assert recognise(["some.weight"]).name == "a safetensors file of no known kind"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model.", "", "language_model.",
                                    "model.language_model.model.", "module.language_model.model."])
def test_gemma_prefixes(prefix: str) -> None:
    keys = [prefix + n for n in ("embed_tokens.weight", "layers.0.self_attn.q_norm.weight", "norm.weight")]
    vision = ["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "model.vision_tower.head.weight",
              "multi_modal_projector.mm_soft_emb_norm.weight"]
    text, others = split_gemma((key, key) for key in [*keys, *vision, "lm_head.weight"])
    assert list(text) == ["embed_tokens.weight", "layers.0.self_attn.q_norm.weight", "norm.weight"]
    assert list(text.values()) == keys and list(others) == vision
