"""The README's Python and shell examples work as they stand, on the tiny model and at a small size."""
from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote

import av
import pytest

from ...support.tiny_model import ROOT, copy_model, run

COMPARISON = ROOT / "docs" / "comparison.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str, language: str) -> str:
    """The first block of a language below a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def shrink(tmp_path: Path):
    """A function that puts tiny files and sizes in the place of the real ones; every substitution must happen."""
    checkpoint, encoder = copy_model(tmp_path)

    def substitute(text: str, sizes: dict[str, str]) -> str:
        for old, new in {"ltx-2.3-22b-distilled-1.1.safetensors": checkpoint.name,  # bare: the folder may have any name
                         "gemma_3_12B_it.safetensors": encoder.name, **sizes}.items():
            assert old in text, old
            text = text.replace(old, new)
        return text

    return substitute


def check(path: Path) -> None:
    with av.open(str(path)) as file:
        assert [s.type for s in file.streams] == ["video", "audio"]
        assert sum(1 for _ in file.decode(video=0)) == 9


def test_five_lines_of_python(tmp_path: Path, shrink) -> None:
    code = block("Five lines of Python", "python")
    assert len(code.strip().splitlines()) == 5
    code = shrink(code, {"width=768": "width=64", "height=512": "height=64", "frames=121": "frames=9, steps=2"})
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "fox.mp4")


def test_command_line(tmp_path: Path, shrink) -> None:
    text = shrink(block("Command line", "bash"), {"--width 768": "--width 64", "--height 512": "--height 64",
                                                  "--frames 121": "--frames 9 --steps 2"})
    words = shlex.split(text.replace("\\\n", " "))
    assert words[0] == "python"
    done = run([sys.executable, *words[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "fox.mp4")


def test_links_and_named_files_exist() -> None:
    for target in re.findall(r"\]\(<?(?!http|#)([^)#>]+)", README):
        assert (ROOT / target.replace("%20", " ")).exists(), target
    for name in re.findall(r"`((?:workflows|docs|nodes|ltx23_core)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors, anchor


def test_every_yes_of_the_table_leads_to_what_shows_it() -> None:
    rows = COMPARISON.read_text(encoding="utf-8").splitlines()
    ours = [row.split("|")[2] for row in rows if row.startswith("| ") and not row.startswith("| |")]
    assert len(ours) > 20
    for cell in ours:
        assert re.search(r"\[yes\]\((?!\.\./tests/)", cell), cell
        assert re.search(r"\[test\]\(\.\./tests/\S+\.py\)", cell), cell
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", COMPARISON.read_text(encoding="utf-8")):
        assert (COMPARISON.parent / target.replace("%20", " ")).exists(), target


def test_every_link_leads_somewhere() -> None:
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in README.splitlines() if line.startswith("#")}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("http"):
            assert (ROOT / link.strip("<>").split("#")[0].replace("%20", " ")).exists(), link


def test_every_workflow_is_named() -> None:
    for file in (ROOT / "workflows").glob("*.json"):
        assert f"(workflows/{file.name})".replace(" ", "%20") in README


def test_links_lead_somewhere() -> None:
    """Files that README, docs and help pages name; the page looks for a help page's pictures from web/docs on."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*/*.md")]
    links, lost = 0, []
    for page in pages:
        folder = page.parent.parent if ROOT / "web" in page.parents else page.parent
        for link in re.findall(r"\]\(<?([^)>#\s][^)>#]*)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            links += 1
            if not (folder / unquote(link)).exists():
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert links > 50 and not lost, lost
