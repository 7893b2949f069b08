"""The Comfy Registry's rules that can be checked without it: metadata, pictures, forbidden code, what is packed."""
from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image

from ...support.tiny_model import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

INSTALLS = re.compile(r"""["']pip["'],\s*["']install|pip\._internal|\bensurepip\b|os\.system\(""")
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(TEXT)


def test_metadata_is_complete() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    name = project["name"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{1,99}", name) and "comfyui" not in name.lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"] and project["requires-python"] == ">=3.10"
    assert {"Repository", "Documentation", "Bug Tracker"} <= set(project["urls"])
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= set(comfy)
    assert "web" not in comfy, "with WEB_DIRECTORY too, every script would be loaded twice"


def test_placeholders_are_named_as_such() -> None:
    """What only the owner knows is a placeholder that says so, or is filled in everywhere."""
    left = re.findall(r"example\.com|placeholder-publisher", TEXT)
    assert not left or TEXT.count("# Placeholder") == 2


def test_the_version_is_that_of_the_changelog() -> None:
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == PROJECT["project"]["version"]


@pytest.mark.parametrize(("key", "shape"), [("Icon", "square"), ("Banner", "21:9")])
def test_pictures(key: str, shape: str) -> None:
    path = ROOT / PROJECT["tool"]["comfy"][key].partition("/raw/main/")[2]
    width, height = Image.open(path).size
    if shape == "square":
        assert width == height <= 400
    else:
        assert width * 9 == height * 21
    assert path.stat().st_size < 200_000


def test_no_forbidden_code() -> None:
    """The rules that `comfy node validate` runs, with nothing excused: exec, eval, several statements on a line."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select", "S102,S307,E702", "nodes",
                           "ltx23_core", "__init__.py"], cwd=ROOT, check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_nothing_is_installed_at_run_time() -> None:
    for folder in ("nodes", "ltx23_core", "web"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".js"):
                text = path.read_text(encoding="utf-8")
                assert not INSTALLS.search(text), path
    assert not (ROOT / "install.py").exists() and not (ROOT / "prestartup_script.py").exists()
