"""Translations: every node and every input that the schemas have, and nothing else."""
from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from tests.support.tiny_model import ROOT

LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())


def node_ids() -> set[str]:
    found = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        found |= set(re.findall(r'node_id="(LTX23\w+)"', path.read_text(encoding="utf-8")))
    return found


def inputs_of_api() -> dict[str, set[str]]:
    """Inputs of the nodes that templates use, as ComfyUI's page exports them."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            found.setdefault(node["class_type"], set()).update(node["inputs"])
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_there(language: str) -> None:
    known = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(known) == node_ids()
    for name, node in known.items():
        assert node["display_name"].startswith("LTX-2.3 ") and node["description"], name
        assert all(each["tooltip"].strip() for each in node["inputs"].values()), name
    for name, inputs in inputs_of_api().items():
        if name.startswith("LTX23"):
            assert inputs <= set(known[name]["inputs"]), (name, inputs - set(known[name]["inputs"]))


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_every_help_page_tells_every_input(language: str) -> None:
    """The panel shows the page alone; the names are those of the translations, which are those of the schemas."""
    known = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    for name, node in known.items():
        text = (ROOT / "web" / "docs" / name / f"{language}.md").read_text(encoding="utf-8")
        missing = [each for each in node["inputs"] if not re.search(rf"(\*\*|\| |, ){each}\b", text)]
        assert not missing, (name, language, missing)
        for picture in re.findall(r"!\[.+?\]\((.+?)\)", text):
            with Image.open(ROOT / "web" / "docs" / picture) as shown:
                assert shown.width >= 600, "a picture of a graph"


def test_pages_of_other_languages_belong_to_nodes() -> None:
    for page in (ROOT / "web" / "docs").glob("*/*.md"):
        assert page.parent.name in node_ids() and page.stem in ("en", *LANGUAGES), page


