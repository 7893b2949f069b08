"""The shopping list: README, the workflows' notes, the node's page, the error and the report name the same files."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx23_core.overlay.downloads import DOWNLOADS, GATED, OPTIONAL, missing, missing_lines, needed_by
from ltx23_core.overlay.shelf.choose import choose
from ltx23_core.plan.recipes import RECIPES
from tests.support.folder import item

ROOT = Path(__file__).parents[3]
CHECKPOINT, ENCODER = (DOWNLOADS[name][0].path.rpartition("/")[2] for name in ("transformer", "text_encoder"))
LORA, UPSCALER = (DOWNLOADS[name][0].path for name in ("distilled_lora", "upsampler_x2"))


def test_with_nothing_there_two_files() -> None:
    choice = choose([], {})
    lines = missing_lines(choice.missing, optional=False)
    print("\n".join(lines))
    assert len(lines) == 2
    assert f"{CHECKPOINT}, 46.1 GB -> models/checkpoints: https://" in lines[0]
    assert f"{ENCODER}, 24.4 GB -> models/text_encoders: https://" in lines[1]
    assert GATED.repo in lines[1] and "gated" in lines[1]
    assert {name for name in choice.missing if name not in OPTIONAL} == {"transformer", "text_encoder"}


def test_what_a_checkpoint_contains_is_not_listed() -> None:
    choice = choose([item("whole", f"checkpoints/{CHECKPOINT}")], {})
    assert [name for name in choice.missing if name not in OPTIONAL] == ["text_encoder"]
    alone = choose([item("gguf Q4_K", "unet/ltx-2.3-22b-dev-Q4_K_M.gguf")], {})
    assert {"text_projection", "video_decoder", "vocoder", "text_encoder"} <= set(alone.missing)
    assert "connectors" not in alone.missing and "transformer" not in alone.missing


@pytest.mark.parametrize(("recipe", "variant", "files"), [
    ("one_stage", "dev", []), ("two_stage", "dev", [UPSCALER, LORA]), ("hq", "dev", [UPSCALER, LORA]),
    ("distilled", "dev", [UPSCALER, LORA]), ("distilled", "distilled", [UPSCALER]),
    ("distilled_one_stage", "distilled", []), ("distilled_one_stage", "dev", [LORA])])
def test_what_a_recipe_needs(recipe: str, variant: str, files: list[str]) -> None:
    chosen = RECIPES[recipe]
    lora = any(stage.lora for stage in chosen.stages)
    have = set(DOWNLOADS) - set(OPTIONAL)
    lines = needed_by(chosen.upscales, lora, variant, have)
    assert len(lines) == len(files) and all(file in line for file, line in zip(files, lines, strict=True))
    assert needed_by(chosen.upscales, lora, variant, DOWNLOADS) == []


def notes(path: Path) -> str:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    return "\n".join(str(node["widgets_values"][0]) for node in nodes if node["type"] in ("Note", "MarkdownNote"))


def test_all_texts_name_the_same_files() -> None:
    texts = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
             "Overlay's page": (ROOT / "web" / "docs" / "LTX23Overlay" / "en.md").read_text(encoding="utf-8")}
    texts |= {path.name: text for path in sorted((ROOT / "workflows").glob("*.json")) if "22b" in (text := notes(path))}
    assert len(texts) > 10
    for name, text in texts.items():
        rest = text[text.index(CHECKPOINT):]
        assert ENCODER in rest and GATED.repo.rpartition("/")[2] in rest, name
        assert rest.index(ENCODER) < rest.index(GATED.repo.rpartition("/")[2]), name
    assert missing((), None)[0] == "transformer"
