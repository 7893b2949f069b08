"""Gemma as one file: bf16, fp8, NVFP4; its tokenizer inside, beside, or elsewhere."""
from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.prompt.spiece import read_pieces, tokenizer_files
from ltx23_core.prompt.tokenizer import Tokenizer
from ltx23_core.prompt.tokenizer_files import tokenizer_folder
from ltx23_core.weights.reader import read_tensors
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support import quantisers
from tests.support.layouts import comfy_gemma
from tests.support.overlay import GEMMA_4B, GEMMA_12B, gemma_folder, refuses, write_sparse

PROMPT = "A boat on a lake, at dawn. Two gulls cry \n\n and then\tnothing."
KINDS = {"bf16": (None, None), "fp8 scaled": (quantisers.fp8(), {"format": "float8_e4m3fn"}),
         "fp8 scaled, sniffed": (quantisers.fp8(), None), "fp4 mixed": (quantisers.nvfp4, {"format": "nvfp4"}),
         "fp8_e4m3fn": (quantisers.cast, None)}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return materialize(CHECKPOINT, GEMMA, output=tmp_path_factory.mktemp("official") / "o.json")


def tensors(overlay: Overlay) -> dict[str, torch.Tensor]:
    return dict(read_tensors(overlay.require("text_encoder").tensors, "cpu", torch.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_single_file(kind: str, official: Overlay, tmp_path: Path) -> None:
    quantise, told = KINDS[kind]
    path, numbers = comfy_gemma(tmp_path / "te" / "comfy_gemma_3_12B_it.safetensors", quantise, told)
    overlay = materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    assert overlay.tokenizer is None and Overlay.load(overlay.path) == overlay
    want, got = tensors(official) | numbers, tensors(overlay)
    assert set(got) == set(want) and (numbers or quantise is None)
    assert not [name for name in want if not torch.equal(got[name], want[name].float())]
    assert (len(overlay.require("text_encoder_vision").tensors)
            == len(official.require("text_encoder_vision").tensors))
    contexts = [Pipeline(o, device="cpu", dtype="fp32").encode(PROMPT, "").positive for o in (overlay, official)]
    mine, theirs = contexts
    assert mine.video.shape == theirs.video.shape, "another number of tokens"
    if quantise is None:
        assert torch.equal(mine.video, theirs.video) and torch.equal(mine.audio, theirs.audio)
    else:
        assert (mine.video - theirs.video).norm() < 0.5 * theirs.video.norm()
    assert len(list(tmp_path.glob("o.tokenizer-*"))) == 1, "the tokenizer is kept beside the overlay"


# --- the tokenizer

def test_converted_tokenizer_equals_the_fast_one(tmp_path: Path) -> None:
    for name, text in tokenizer_files((GEMMA / "tokenizer.model").read_bytes()).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    mine, theirs = Tokenizer(tmp_path), Tokenizer(GEMMA)
    r, words = random.Random(0), (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8").split()
    odd = ["  ", "\n\n", "\t", "é", "日本", "🚢", "<start_of_turn>user", "   x", "<bos>", "<unk>", "\u00a0", "…"]
    for _ in range(400):
        text = "".join(r.choice(odd) if r.random() < 0.2 else " " + r.choice(words) for _ in range(r.randint(0, 12)))
        assert mine.encode(text) == theirs.encode(text), text


def test_converted_tokenizer_equals_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(GEMMA / "tokenizer.model"))
    for name, text in tokenizer_files((GEMMA / "tokenizer.model").read_bytes()).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    mine = Tokenizer(tmp_path)
    for text in (PROMPT, "", "a", "日本 🚢 é", "the the  the", *(PROMPT[i:i + 9].strip() for i in range(30))):
        assert mine.encode(text) == [2, *model.encode(text.strip())], text


def test_pieces_equal_sentencepiece() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(GEMMA / "tokenizer.model"))
    pieces = read_pieces((GEMMA / "tokenizer.model").read_bytes())
    assert [(p.text, p.score) for p in pieces] == [(model.id_to_piece(i), model.get_score(i))
                                                   for i in range(model.get_piece_size())]


def test_damaged_sentencepiece_models() -> None:
    good = (GEMMA / "tokenizer.model").read_bytes()
    r = random.Random(0)
    for data in (b"", b"<html>", good[:500], b"\xff" * 100, *(r.randbytes(r.randint(1, 300)) for _ in range(300))):
        try:
            tokenizer_files(data)
        except (ValueError, StopIteration):
            continue


def test_damaged_tokenizer_inside_is_named(tmp_path: Path) -> None:
    path, _ = comfy_gemma(tmp_path / "te" / "g.safetensors")
    state = load_file(path)
    state["spiece_model"] = torch.zeros(20, dtype=torch.uint8)
    save_file(state, path)
    overlay = materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    with refuses(OverlayError, "SentencePiece model in", "g.safetensors"):
        tokenizer_folder(overlay)


def test_tokenizer_beside_elsewhere_or_nowhere(tmp_path: Path) -> None:
    path, _ = comfy_gemma(tmp_path / "te" / "gemma.safetensors", tokenizer=False)
    with refuses(OverlayError, "gemma.safetensors has no tokenizer"):
        materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    other = tmp_path / "tokenizers"
    shutil.copytree(GEMMA, other, ignore=shutil.ignore_patterns("model*", "config.json"))
    assert materialize(CHECKPOINT, path, components=[other], output=tmp_path / "o.json").tokenizer == other
    shutil.copy(GEMMA / "tokenizer.model", path.parent)  # alone: converted
    overlay = materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    assert overlay.tokenizer == path.parent
    folder = tokenizer_folder(overlay)
    assert folder.parent == tmp_path and Tokenizer(folder).encode(PROMPT) == Tokenizer(GEMMA).encode(PROMPT)
    assert tokenizer_folder(overlay) == folder


def test_tokenizer_in_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = comfy_gemma(tmp_path / "te" / "gemma.safetensors")
    overlay = materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    moved = Overlay(**{**overlay.__dict__, "path": tmp_path / "te" / "gemma.safetensors" / "o.json"})  # below a file
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "te"))
    assert Tokenizer(tokenizer_folder(moved)).bos == 2


def test_single_file_in_a_folder(tmp_path: Path) -> None:
    """Wan2GP and others: a folder with one file of any name and the tokenizer; here without config.json."""
    path, _ = comfy_gemma(tmp_path / "te" / "gemma-3-12b-it.safetensors")
    shutil.move(path.parent / "config.json", tmp_path)
    with refuses(OverlayError, "7 layers of width 32", "config.json is missing"):
        materialize(CHECKPOINT, path.parent, output=tmp_path / "o.json")


@pytest.mark.parametrize("vision", [True, False])
def test_12b_without_a_config(vision: bool, tmp_path: Path) -> None:
    from ltx23_core.overlay.find.text_encoder import find_text_encoder
    folder = gemma_folder(tmp_path / "hf")
    layout = {}
    for shard in folder.glob("*.safetensors"):
        from ltx23_core.overlay.bytes.header import read_header
        layout |= {key.replace("language_model.model.", "model."): (ref.dtype, ref.shape)
                   for key, ref in read_header(shard).tensors.items() if vision or "vision" not in key}
    path = write_sparse(tmp_path / "single" / "gemma.safetensors", layout | {"spiece_model": ("U8", (4_689_074,))})
    found = find_text_encoder(path)
    assert found.config["text_encoder"]["text_config"].items() >= {
        **GEMMA_12B["text_config"], "vocab_size": 262_208}.items()
    assert ("text_encoder_vision" in found.components) == vision and "tokenizer" in found.components


def test_gemma_of_another_size_as_one_file(tmp_path: Path) -> None:
    folder = gemma_folder(tmp_path / "hf", GEMMA_4B, prefix="model.", shards=1)
    path = (folder / "model-00001-of-00001.safetensors").rename(tmp_path / "gemma3.safetensors")
    with refuses(OverlayError, "is Gemma 3 4B (34 layers of width 2560)", "12B"):
        materialize(CHECKPOINT, path, output=tmp_path / "o.json")


def test_other_files_in_the_place_of_the_text_encoder(tmp_path: Path) -> None:
    with refuses(OverlayError, CHECKPOINT.name, "is an LTX-2.3", "Gemma 3 12B"):
        materialize(CHECKPOINT, CHECKPOINT, output=tmp_path / "o.json")
    with refuses(OverlayError, "config.json is missing"):
        materialize(CHECKPOINT, tmp_path, output=tmp_path / "o.json")


def test_manifest_is_json_of_known_form(tmp_path: Path) -> None:
    path, _ = comfy_gemma(tmp_path / "te" / "g.safetensors", quantisers.nvfp4, {"format": "nvfp4"})
    overlay = materialize(CHECKPOINT, path, output=tmp_path / "o.json")
    entry = json.loads(overlay.path.read_text())["components"]["text_encoder"]["tensors"][
        "layers.0.mlp.up_proj.weight"]
    assert entry["quant"] == "nvfp4" and entry["shape"] == [64, 32]
    assert set(entry["parts"]) == {"weight", "weight_scale", "weight_scale_2"}
