"""What auto puts together: any form of the distilled LoRA, and a file that does not fit is left out with a note."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx23_core.errors import OverlayError
from ltx23_core.lora.plan import lora_pairs
from ltx23_core.overlay import materialize
from ltx23_core.overlay.shelf.assemble import assemble
from ltx23_core.overlay.shelf.shelf import Item, Shelf
from tests.goldens.harness import CHECKPOINT, GEMMA, ROOT
from tests.support.overlay import refuses

TINY_LORA = next((ROOT / "tiny").glob("*distilled-lora*"))
NAME = "tiny-distilled-lora.safetensors"


def models(folder: Path) -> Path:
    """Model folders with the tiny checkpoint under a name that says dev, and the text encoder."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "loras").mkdir()
    shutil.copy(CHECKPOINT, folder / "checkpoints" / "tiny-dev.safetensors")
    shutil.copytree(GEMMA, folder / "text_encoders" / "gemma")
    return folder


def look(folder: Path) -> list[Item]:
    return Shelf().look([(each.name, each) for each in sorted(folder.iterdir())])


def kohya(state: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """The same LoRA with kohya's names, and a scale."""
    made = {}
    for key, value in state.items():
        path, _, role = key.removeprefix("diffusion_model.").removesuffix(".weight").rpartition(".")
        flat = "lora_unet_" + path.replace(".", "_")
        made[f"{flat}.lora_{'down' if role == 'lora_A' else 'up'}.weight"] = value.contiguous()
        made[f"{flat}.alpha"] = torch.tensor(alpha)
    return made


@pytest.mark.parametrize("form", ["official", "kohya", "biases", "connectors", "under model."])
def test_a_distilled_lora_of_any_form(tmp_path: Path, form: str) -> None:
    """Whatever the LoRA node can read, auto can: the same modules change, by the same factors."""
    state = load_file(TINY_LORA)
    changed = dict(state)
    if form == "kohya":
        changed = kohya(state, alpha=2.0)
    elif form == "biases":
        changed["diffusion_model.transformer_blocks.0.attn1.to_q.diff_b"] = torch.zeros(64)
    elif form == "connectors":
        path = "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"
        changed |= {f"{path}.lora_A.weight": torch.zeros(4, 64), f"{path}.lora_B.weight": torch.zeros(64, 4)}
    elif form == "under model.":
        changed = {f"model.{key}": value for key, value in state.items()}
    folder = models(tmp_path)
    save_file(changed, folder / "loras" / NAME)
    overlay, choice = assemble(look(folder), {}, 0, lambda _: tmp_path / "overlay.json")
    assert choice.files["distilled_lora"].name == NAME, [each.identity.sentence for each in look(folder)]
    updates = lora_pairs(overlay.require("distilled_lora").tensors)
    shutil.copy(TINY_LORA, tmp_path / NAME)
    plain = materialize(folder / "checkpoints" / "tiny-dev.safetensors", distilled_lora=tmp_path / NAME,
                        output=tmp_path / "plain.json")
    wanted = lora_pairs(plain.require("distilled_lora").tensors)
    assert set(wanted) == {name for name in updates if name.endswith(".weight")}
    for name, update in wanted.items():
        mine = updates[name]
        assert {role: ref.shape for role, ref in mine.tensors.items()} == {
            role: ref.shape for role, ref in update.tensors.items()}
        assert (mine.alpha is not None) == (form == "kohya") and (mine.alpha is None or mine.rank == 4)
    assert ("transformer_blocks.0.attn1.to_q.bias" in updates) == (form == "biases")
    assert any("change connectors" in note for note in overlay.notes) == (form == "connectors")
    kept = materialize(folder / "checkpoints" / "tiny-dev.safetensors", distilled_lora=folder / "loras" / NAME,
                       output=tmp_path / "again.json")
    assert type(overlay).load(kept.path).require("distilled_lora").tensors.keys() == kept.require(
        "distilled_lora").tensors.keys()


def damaged_lora(path: Path) -> None:
    """A LoRA that looks like the distilled one and has half of its pairs transposed."""
    state = load_file(TINY_LORA)
    save_file({key: value.T.contiguous() if "attn2" in key else value for key, value in state.items()}, path)


def test_what_does_not_fit_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder = models(tmp_path / "models")
    damaged_lora(folder / "loras" / f"a-{NAME}")
    overlay, choice = assemble(look(folder), {}, 0, lambda _: tmp_path / "overlay.json")
    print(choice.notes)
    assert "distilled_lora" not in choice.files and "distilled_lora" not in overlay.components
    assert "distilled_lora" in choice.missing
    assert any(note.startswith("distilled_lora: models/loras/a-") and "left out" in note for note in choice.notes)
    shutil.copy(TINY_LORA, folder / "loras" / f"b-{NAME}")  # the next best is taken
    overlay, choice = assemble(look(folder), {}, 0, lambda _: tmp_path / "overlay.json")
    assert choice.files["distilled_lora"].name == f"b-{NAME}" and "distilled_lora" in overlay.components


def test_what_was_asked_for_is_an_error(tmp_path: Path) -> None:
    folder = models(tmp_path / "models")
    damaged_lora(folder / "loras" / NAME)
    items = look(folder)
    asked = next(each for each in items if each.name == NAME)
    with refuses(OverlayError, NAME):
        assemble(items, {"distilled_lora": asked}, 0, lambda _: tmp_path / "overlay.json")
    assert not (tmp_path / "overlay.json").exists()


def test_a_checkpoint_that_does_not_fit_gives_way_to_another(tmp_path: Path) -> None:
    folder = models(tmp_path / "models")
    with safe_open(CHECKPOINT, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
        metadata = file.metadata()
    del state["model.diffusion_model.proj_out.weight"]
    save_file(state, folder / "checkpoints" / "a-dev.safetensors", metadata)
    overlay, choice = assemble(look(folder), {}, 0, lambda _: tmp_path / "overlay.json")
    assert choice.files["checkpoint"].name == "tiny-dev.safetensors" and overlay.variant == "dev"
    assert any("a-dev.safetensors is left out" in note for note in choice.notes)
    (folder / "checkpoints" / "tiny-dev.safetensors").unlink()
    with refuses(OverlayError, "a-dev.safetensors"):
        assemble(look(folder), {}, 0, lambda _: tmp_path / "other.json")
