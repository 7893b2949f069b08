"""Encoded prompts on the disk: found again by text and files alone, whole or not at all, and not too many."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.errors import OverlayError
from ltx23_core.prompt.kept import KeptPrompts
from tests.goldens.harness import CHECKPOINT, GEMMA


def pipeline(overlay: Overlay, folder: Path | None, dtype: str = "fp32") -> Pipeline:
    return Pipeline(overlay, device="cpu", dtype=dtype, prompt_cache=folder)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def context(value: float) -> tuple[Tensor, Tensor]:
    return torch.full((1, 8, 4), value), torch.full((1, 8, 2), value)


def test_a_prompt_that_was_used_before_reads_no_weights(tiny_overlay: Overlay, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "prompts"
    first = pipeline(tiny_overlay, folder).encode("a boat", "noise")
    assert len(entries(folder)) == 2
    again = pipeline(tiny_overlay, folder)
    pair = again.encode("a boat", "noise")
    assert torch.equal(pair.positive.video, first.positive.video)
    assert torch.equal(pair.negative.audio, first.negative.audio)
    assert not any(component.loads for component in again.components)
    assert len(entries(folder)) == 2


def test_by_default_nothing_is_written(tiny_overlay: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline(tiny_overlay, None).encode("a boat", "noise")
    assert not entries(tmp_path)


def test_by_choice_for_one_prompt_of_a_pipeline_too(tiny_overlay: Overlay, tmp_path: Path) -> None:
    """What was encoded before that was wanted is written then, once; the pipeline's own way does not change."""
    pipe = pipeline(tiny_overlay, None)
    first = pipe.encode("a boat", "noise")
    assert not entries(tmp_path)
    pipe.encode("a boat", "noise", prompt_cache=tmp_path)
    there = [path.stat().st_mtime_ns for path in entries(tmp_path)]
    assert len(there) == 2
    pipe.encode("a boat", "noise", prompt_cache=tmp_path)
    pipe.encode("another", "noise")
    assert [path.stat().st_mtime_ns for path in entries(tmp_path)] == there
    again = pipeline(tiny_overlay, None)
    assert torch.equal(again.encode("a boat", "noise", prompt_cache=tmp_path).positive.video, first.positive.video)
    assert not any(component.loads for component in again.components)


def test_other_texts_dtypes_and_files_are_other_entries(tmp_path: Path) -> None:
    gemma = Path(shutil.copytree(GEMMA, tmp_path / "gemma"))
    folder = tmp_path / "prompts"
    overlay = materialize(CHECKPOINT, gemma, output=tmp_path / "o.json")
    pipeline(overlay, folder).encode("a boat", "a boat")
    assert len(entries(folder)) == 1
    pipeline(overlay, folder).encode("a boat ", "a boat")
    pipeline(overlay, folder, "bf16").encode("a boat", "a boat")
    assert len(entries(folder)) == 3
    os.utime(gemma / "model.safetensors", ns=(1, 1))
    with pytest.raises(OverlayError, match="changed"):
        pipeline(overlay, folder).encode("a boat", "a boat")
    overlay = materialize(CHECKPOINT, gemma, output=tmp_path / "o.json")
    pipeline(overlay, folder).encode("a boat", "a boat")
    assert len(entries(folder)) == 4
    os.utime(gemma / "tokenizer.json", ns=(1, 1))
    pipeline(overlay, folder).encode("a boat", "a boat")
    assert len(entries(folder)) == 5


@pytest.mark.parametrize("damage", [b"", b"no such thing", None])
def test_a_damaged_entry_counts_as_missing(tiny_overlay: Overlay, tmp_path: Path, damage: bytes | None,
                                           caplog: pytest.LogCaptureFixture) -> None:
    want = pipeline(tiny_overlay, tmp_path).encode("a boat", "a boat")
    [entry] = entries(tmp_path)
    data = entry.read_bytes()
    entry.write_bytes(data[:len(data) // 2] if damage is None else damage)
    got = pipeline(tiny_overlay, tmp_path).encode("a boat", "a boat")
    assert torch.equal(got.positive.video, want.positive.video)
    assert "the prompt is encoded again" in caplog.text
    assert entry.read_bytes() == data


def test_those_used_longest_ago_go(tmp_path: Path) -> None:
    KeptPrompts(tmp_path).keep(["0"], *context(0))
    [entry] = entries(tmp_path)
    kept = KeptPrompts(tmp_path, most_bytes=7 * entry.stat().st_size // 2)  # room for three
    for number in range(3):
        kept.keep([str(number)], *context(number))
        for path in entries(tmp_path):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    assert kept.find(["0"]) is not None  # used now
    for number in range(3, 5):
        kept.keep([str(number)], *context(number))
    assert [number for number in range(5) if kept.find([str(number)])] == [0, 3, 4]


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    left = tmp_path / ".ltx23-prompt-00.safetensors.0-00ff.tmp"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    KeptPrompts(tmp_path).keep(["a"], *context(1))
    assert not left.exists() and len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_entry(tmp_path: Path,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    KeptPrompts(tmp_path / "file").keep(["a"], *context(1))
    assert "encoded prompts cannot be kept" in caplog.text


