"""GGUF headers: read as the gguf package reads them, and what is refused."""
from __future__ import annotations

import random
import struct
from math import prod
from pathlib import Path

import pytest

from ltx23_core.errors import OverlayError
from ltx23_core.overlay.bytes.gguf import TOKENIZER, is_gguf, read_gguf, read_gguf_weights
from ltx23_core.overlay.bytes.header import read_json
from ltx23_core.overlay.bytes.source import QuantRef, TensorRef
from ltx23_core.overlay.find.gguf_gemma import gguf_gemma_config, is_gguf_gemma, sentencepiece_model
from ltx23_core.overlay.names.builtin import builtin_gemma
from tests.goldens.harness import GEMMA
from tests.support.gguf import gemma_gguf, gguf, k_mix, transformer_gguf
from tests.support.overlay import refuses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf")
    transformer_gguf(path / "mix.gguf", k_mix)
    gemma_gguf(path / "gemma.gguf")
    return path


@pytest.mark.parametrize("name", ["mix.gguf", "gemma.gguf"])
def test_same_tensors_as_the_package_reads(folder: Path, name: str) -> None:
    assert is_gguf(folder / name)
    header, reader = read_gguf(folder / name), gguf.GGUFReader(folder / name)
    tensors = {key: ref for key, ref in header.tensors.items() if key != TOKENIZER}
    assert len(tensors) == len(reader.tensors)
    ours = sorted(tensors.values(), key=lambda ref: ref.start)
    for ref, theirs in zip(ours, sorted(reader.tensors, key=lambda t: t.data_offset), strict=True):
        part = ref.parts["weight"] if isinstance(ref, QuantRef) else ref
        assert ref.dtype == theirs.tensor_type.name or ref.dtype == "1+w"
        assert (part.start, part.size_bytes) == (theirs.data_offset, theirs.n_bytes)
        assert ref.shape == tuple(reversed(theirs.shape.tolist())) and part.source is header.source
        if isinstance(ref, QuantRef) and ref.dtype != "1+w":
            assert part.dtype == "U8" and prod(part.shape) == part.size_bytes and part.shape[:-1] == ref.shape[:-1]
    assert header.source.head_bytes < ours[0].start <= header.source.head_bytes + 31


def test_metadata_are_text(folder: Path) -> None:
    header = read_gguf(folder / "mix.gguf")
    assert header.metadata["general.architecture"] == "ltxv" and header.metadata["config"].startswith("{")
    gemma = read_gguf(folder / "gemma.gguf").metadata
    assert gemma["gemma3.block_count"] == "7" and "tokenizer.ggml.tokens" not in gemma


def test_gemma_has_the_names_of_transformers(folder: Path) -> None:
    tensors = read_gguf(folder / "gemma.gguf").tensors
    assert {"embed_tokens.weight", "norm.weight", "layers.6.mlp.down_proj.weight"} <= tensors.keys()
    norms = {name for name, ref in tensors.items() if ref.dtype == "1+w"}
    assert norms == {name for name in tensors if "norm" in name} and len(norms) == 7 * 6 + 1
    assert isinstance(tensors["norm.weight"].parts["weight"], TensorRef)


def test_configuration_of_gemma(folder: Path) -> None:
    metadata = read_gguf(folder / "gemma.gguf").metadata
    assert is_gguf_gemma(metadata) and not is_gguf_gemma(read_gguf(folder / "mix.gguf").metadata)
    config = gguf_gemma_config(folder, metadata, 640)
    want = read_json(GEMMA / "config.json")["text_config"]
    assert {key: config[key] for key in want} == want
    real = {**metadata, "gemma3.block_count": "48", "gemma3.embedding_length": "3840",
            "gemma3.context_length": "131072", "gemma3.feed_forward_length": "15360",
            "gemma3.attention.head_count": "16", "gemma3.attention.head_count_kv": "8",
            "gemma3.attention.key_length": "256", "gemma3.attention.sliding_window": "1024"}
    del real["gemma3.rope.scaling.factor"]
    official = {**builtin_gemma()["text_config"], "vocab_size": 262144}
    got = gguf_gemma_config(folder, real, 262144)
    assert got.pop("rms_norm_eps") == pytest.approx(official.pop("rms_norm_eps"), rel=1e-7)
    assert got == {key: official[key] for key in got} and official.keys() - got == {"rope_local_base_freq"}
    with refuses(OverlayError, "gemma3.attention.key_length = None"):
        gguf_gemma_config(folder, {k: v for k, v in metadata.items() if "key_length" not in k}, 1)


def test_tokenizer_is_made_again_from_the_values(folder: Path) -> None:
    import sentencepiece
    head = read_gguf(folder / "gemma.gguf").tensors[TOKENIZER]
    data = (folder / "gemma.gguf").read_bytes()[head.start:head.end]
    made = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(data, folder))
    want = sentencepiece.SentencePieceProcessor(model_file=str(GEMMA / "tokenizer.model"))
    assert made.get_piece_size() == want.get_piece_size()
    for prompt in ("", "A red fox trots  through snow.", " two\n\nlines \t", "Ünïcödé 漢字 🦊", "<bos>x<end_of_turn>"):
        assert made.encode(prompt) == want.encode(prompt), prompt
        assert made.decode(made.encode(prompt)) == want.decode(want.encode(prompt))
    assert (made.bos_id(), made.eos_id(), made.unk_id(), made.pad_id()) == (
        want.bos_id(), want.eos_id(), want.unk_id(), want.pad_id())
    assert sentencepiece_model(b"bytes of tokenizer.model", folder) == b"bytes of tokenizer.model"
    with refuses(OverlayError, "no vocabulary with scores and types"):
        sentencepiece_model((folder / "mix.gguf").read_bytes(), folder)
    with refuses(OverlayError, "damaged header"):
        sentencepiece_model(data[:1000], folder)


def test_every_truncation_is_named(folder: Path, tmp_path: Path) -> None:
    data, cut = (folder / "gemma.gguf").read_bytes(), tmp_path / "cut.gguf"
    head = read_gguf(folder / "gemma.gguf").source.head_bytes
    for size in [8, 23, 24, *random.Random(1).sample(range(24, head), 60)]:
        cut.write_bytes(data[:size])
        with refuses(OverlayError, str(cut), "ends within its header"):
            read_gguf(cut)
    for size in (head + 40, len(data) - 1):
        cut.write_bytes(data[:size])
        with refuses(OverlayError, "is truncated", f"{len(data) - size} are missing"):
            read_gguf(cut)
    cut.write_bytes(data[:2])
    assert not is_gguf(cut) and not is_gguf(tmp_path) and not is_gguf(tmp_path / "none")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def made(pairs: list[bytes], tensors: list[bytes], version: int = 3, data: bytes = b"\0" * 64) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def entry(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize("content, words", [
    (made([], [], version=1), "a GGUF file of version 1"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "for big-endian machines"),
    (made([], [entry("x", (4,), 99, 0)]), "x has the unknown type 99"),
    (made([], [entry("x", (33,), 8, 0)]), "rows of 33 values are no multiple of 32"),
    (made([], [entry("x", (4,), 0, 0), entry("x", (4,), 0, 32)]), "x occurs twice"),
    (made([], [entry("x", (4, 4), 0, 0), entry("y", (4,), 0, 32)]), "y overlaps x"),
    (made([], [entry("x", (1 << 40, 1 << 40), 0, 0)]), "x has the shape"),
    (made([], [entry("x", (1,) * 9, 0, 0)]), "x has 9 dimensions"),
    (made([text("k") + struct.pack("<I", 77)], []), "unknown type 77"),
    (made([text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9], []), "arrays within arrays"),
    (made([text("general.alignment") + struct.pack("<II", 4, 0)], []), "general.alignment is out of range"),
    (made([struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 1)], []), "can't decode byte"),
    (made([struct.pack("<Q", 1 << 63)], []), "ends within its header"),
    (made([text("k") + struct.pack("<IIQ", 9, 4, 1 << 62)], []), "ends within its header"),
    (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "it promises 4611686018427387904 tensors"),
    (made([], [entry("x", (4, 9), 0, 0)]), "80 are missing"),
])
def test_hostile_and_damaged_headers(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with refuses(OverlayError, words):
        read_gguf(tmp_path / "bad.gguf")


def test_random_damage_never_crashes(folder: Path, tmp_path: Path) -> None:
    data, path, rng = (folder / "mix.gguf").read_bytes(), tmp_path / "x.gguf", random.Random(0)
    head = read_gguf(folder / "mix.gguf").source.head_bytes
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(4, head)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_gguf(path)
        except OverlayError:
            refused += 1
    assert refused > 20


def test_unknown_formats_are_refused_by_name(tmp_path: Path) -> None:
    entries = [entry("a", (256,), 17, 0), entry("b", (256,), 17, 96)]
    (tmp_path / "iq.gguf").write_bytes(made([], entries, data=bytes(192)))
    header = read_gguf(tmp_path / "iq.gguf")
    assert header.tensors["a"].shape == (256,)
    with refuses(OverlayError, "2 tensors of type IQ2_XS", "Q4_K"):
        read_gguf_weights(header.path)


def test_original_shapes_of_comfyui(tmp_path: Path) -> None:
    def note(name: str, *shape: int) -> bytes:
        return text(f"comfy.gguf.orig_shape.{name}") + struct.pack(f"<IIQ{len(shape)}i", 9, 5, len(shape), *shape)

    (tmp_path / "x.gguf").write_bytes(made(
        [note("a", 1, 4, 2), note("b", 3, 3), note("c", 64)],
        [entry("a", (2, 4), 0, 0), entry("b", (8,), 0, 32), entry("c", (32, 2), 8, 64)], data=bytes(160)))
    assert {k: r.shape for k, r in read_gguf(tmp_path / "x.gguf").tensors.items()} == {
        "a": (1, 4, 2), "b": (8,), "c": (2, 32)}
