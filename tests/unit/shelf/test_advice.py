"""What is told of broken files, copies and odd names; a library call without a transformer."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx23_core.errors import OverlayError
from ltx23_core.overlay.names.variant import variant_of_name
from ltx23_core.overlay.shelf.assemble import assemble
from ltx23_core.overlay.shelf.choose import choose
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.overlay.shelf.report import report
from ltx23_core.overlay.shelf.shelf import Item, Shelf
from tests.goldens.harness import CHECKPOINT, companion


def look(folder: Path) -> list[Item]:
    return Shelf().look([(each.name, each) for each in sorted(folder.iterdir())])


def cut(path: Path, lost: int = 1000) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - lost)


def test_a_truncated_checkpoint_is_named_before_a_download(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    file = Path(shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "tiny-dev.safetensors"))
    cut(file)
    items = look(tmp_path)
    choice = choose(items, {})
    assert choice.broken["transformer"].name == "tiny-dev.safetensors" and "transformer" in choice.missing
    [note] = choice.notes
    assert note.startswith("transformer would be in models/checkpoints/tiny-dev.safetensors (") and "truncated" in note
    assert note.endswith("Continue the download, or repeat it.)")
    with pytest.raises(OverlayError) as caught:
        assemble(items, {}, 0, lambda choice: tmp_path / "o.json")
    assert "Continue the download" in caught.value.fix and "https" not in caught.value.fix


def test_a_whole_file_beside_a_broken_one_needs_no_advice(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "tiny-dev.safetensors")
    cut(Path(shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "other-dev.safetensors")))
    choice = choose(look(tmp_path), {})
    assert choice.files["checkpoint"].name == "tiny-dev.safetensors"
    assert "transformer" not in choice.broken and not any("would be in" in note for note in choice.notes)


def test_a_broken_part_is_to_be_completed_and_no_other_file_is_recommended(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "loras").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "tiny-dev.safetensors")
    lora = Path(shutil.copy(companion("distilled-lora"), tmp_path / "loras" / "tiny-distilled-lora.safetensors"))
    cut(lora)
    items = look(tmp_path)
    overlay, choice = assemble(items, {}, 0, lambda choice: tmp_path / "o.json")
    lacking = report(overlay, choice, items).partition("missing:")[2].partition("in your folders")[0]
    [line] = [line for line in lacking.splitlines() if "distilled_lora" in line]
    assert "loras/tiny-distilled-lora.safetensors is " in line and "Continue the download" in line
    assert "https" not in line
    assert "https" in lacking  # what no file would bring is recommended as before


def test_a_file_that_comes_or_goes_after_the_look_contradicts_nothing(tmp_path: Path) -> None:
    """All that is said of one look is of that look; the next one has the change."""
    (tmp_path / "checkpoints").mkdir()
    file = Path(shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "tiny-dev.safetensors"))
    shelf, roots = Shelf(), [("checkpoints", tmp_path / "checkpoints")]
    items = shelf.look(roots)
    choice = choose(items, {})
    before = choice.fingerprint()
    other = file.rename(file.with_name("other-dev.safetensors"))
    assert choice.fingerprint() != before and choice.fingerprint()[0].endswith(":gone")
    with pytest.raises(OverlayError) as caught:
        assemble(items, {}, 0, lambda choice: tmp_path / "o.json")
    assert "tiny-dev.safetensors" in str(caught.value)
    again = shelf.look(roots)
    assert [item.name for item in again] == [other.name] and choose(again, {}).files["checkpoint"].name == other.name


def test_without_a_transformer_a_library_caller_is_told(tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match="no file brings the transformer"):
        assemble([], {}, 0, lambda choice: tmp_path / "o.json")


@pytest.mark.parametrize("copy", ["tiny-dev (1)", "tiny-dev - Copy", "tiny-dev copy", "tiny-dev copy 2", "tiny-dev(2)"])
def test_the_original_goes_before_its_copy(tmp_path: Path, copy: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("tiny-dev", copy):
        shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / f"{name}.safetensors")
    choice = choose(look(tmp_path), {})
    assert choice.files["checkpoint"].name == "tiny-dev.safetensors"
    assert any("is a copy by its name" in reason for reason in choice.reasons)


@pytest.mark.parametrize(("name", "variant"), [
    ("ltx-2.3-22b-devfp8.safetensors", "dev"), ("ltx23_devbf16.safetensors", "dev"), ("ltx-2.3-devQ4_K_M.gguf", "dev"),
    ("ltx-2.3-devnvfp4.safetensors", "dev"), ("ltx-2.3-developer.safetensors", None), ("device8.safetensors", None),
    ("ltx-2.3-22b-distilled-devfp8.safetensors", "distilled")])
def test_dev_before_a_number_format(name: str, variant: str | None) -> None:
    assert variant_of_name(name).name == variant


@pytest.mark.parametrize("ending", [
    ".partial", ".!qB", ".crdownload", ".aria2", ".download", ".opdownload", ".part", ".!ut"])
def test_marks_of_downloads_that_go_on(tmp_path: Path, ending: str) -> None:
    """The unfinished file itself, and a whole-looking file with the mark beside it."""
    (tmp_path / "checkpoints").mkdir()
    alone = Path(shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / f"a-dev.safetensors{ending}"))
    cut(alone)
    shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "b-dev.safetensors")
    (tmp_path / "checkpoints" / f"b-dev.safetensors{ending}").write_bytes(b"control")
    kinds = {item.name: item.identity.kind for item in look(tmp_path)}
    assert kinds["b-dev.safetensors"] == "unfinished" and kinds[alone.name] == "unfinished", kinds
    assert choose(look(tmp_path), {}).files == {}


def test_a_strong_style_is_no_distilled_lora_by_size_alone(tmp_path: Path) -> None:
    """Rank 384 at every module, but its name does not say distilled: it may be anything."""
    tensors = load_file(companion("distilled-lora"))
    save_file({key: value + torch.zeros(()) for key, value in tensors.items()}, tmp_path / "strong-style.safetensors")
    assert "distilled_lora" not in identify(tmp_path / "strong-style.safetensors").brings
