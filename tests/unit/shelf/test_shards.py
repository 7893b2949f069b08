"""A Gemma folder with one bad shard: the look goes on, names the shard, and auto takes the file beside the folder.

The 22B's names and shapes, sparse. Such a shard made recognition go in circles, and no file at all was found.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx23_core.overlay.shelf.choose import choose
from ltx23_core.overlay.shelf.shelf import Shelf
from tests.support.folder import gemma
from tests.support.overlay import checkpoint_22b, gemma_folder, write_sparse

SHARD, SINGLE = "model-00003-of-00005.safetensors", "gemma_3_12B_it_fp8_scaled.safetensors"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "truncated: header promises"),
    "inside the header": (lambda path: os.truncate(path, 5000), "header"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "a page of the hub": (lambda path: path.write_text("<!DOCTYPE html>"), "HTML page"),
    "another format": (lambda path: path.write_bytes(b"GGUF\3\0\0\0"), "GGUF"),
    "gone": (Path.unlink, "missing"),
    "in progress": (lambda path: path.with_name(path.name + ".aria2").touch(), "unfinished download"),
}


@pytest.mark.parametrize("with_config", [True, False], ids=["", "no config.json"])
@pytest.mark.parametrize("how", SPOILT)
def test_a_bad_shard(tmp_path: Path, how: str, with_config: bool) -> None:
    spoil, words = SPOILT[how]
    checkpoint_22b(tmp_path / "checkpoints" / "ltx-2.3-22b-dev.safetensors")
    write_sparse(tmp_path / "text_encoders" / SINGLE, gemma("fp8"))
    folder = gemma_folder(tmp_path / "text_encoders" / "gemma-3-12b-it")
    spoil(folder / SHARD)
    if not with_config:
        (folder / "config.json").unlink()
    items = Shelf().look([(name, tmp_path / name) for name in ("checkpoints", "text_encoders")])
    found = {item.name: item.identity for item in items}
    print("\n".join(f"{name}: {each.sentence}" for name, each in found.items()))
    bad = [each for name, each in found.items() if name.startswith(folder.name)]
    assert bad and not any(each.usable for each in bad)
    assert any(words in each.sentence for each in bad)
    choice = choose(items, {}, int(80e9))
    assert choice.files["checkpoint"].name == "ltx-2.3-22b-dev.safetensors"
    assert choice.files["text_encoder"].name == SINGLE
