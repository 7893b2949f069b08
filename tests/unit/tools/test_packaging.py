"""pyproject.toml: what `pip install .` asks for and brings; built, listed and installed, without a network."""
from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import install

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "tests" / "goldens" / "tiny" / "ltx-2.3-tiny.safetensors"
LIBRARY = ROOT / "ltx23_core"
OFFLINE = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
NOT_COPIED = (".*", "__pycache__", "goldens", "build", "*.egg-info")
# Imported name -> its distribution, where the two differ.
DISTRIBUTIONS = {"PIL": "pillow", "huggingface_hub": "huggingface-hub"}
NOT_DECLARED = {
    "torch": "pip would replace the build that the user has for the device",
    "triton": "torch brings the one that fits it, where there is one; without it torch itself computes",
    "scipy": "one schedule (beta); without it that schedule is refused with a sentence",
}


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the repository, which a build would leave its own files in."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*NOT_COPIED))
    pip("wheel", "--no-build-isolation", *OFFLINE, "--wheel-dir", str(folder), str(folder / "copy"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder that the wheel is installed into."""
    pip("install", *OFFLINE, "--target", str(wheel.parent / "site"), str(wheel))
    return wheel.parent / "site"


def run_installed(installed: Path, *arguments: str) -> str:
    """Run this Python in an empty folder with the installed library alone; what it prints."""
    elsewhere = installed.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    code = f"import sys, runpy; sys.path.insert(0, {str(installed)!r}); "
    done = subprocess.run([sys.executable, "-c", code + arguments[0], *arguments[1:]], check=False, text=True,
                          capture_output=True, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    return done.stdout


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(wheel: Path) -> dict[str, str]:
    """Distribution -> its bounds, from the metadata of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    found = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", text, re.MULTILINE)
    return {normal(name): bounds for name, bounds in found}


def imports(folder: Path) -> Iterator[str]:
    """The first part of every module that is imported anywhere in a folder, relative imports left out."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.partition(".")[0]


def test_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    mine = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    files = (file for file in LIBRARY.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert mine == {file.relative_to(ROOT).as_posix() for file in files}
    assert [name for name in mine if name.endswith(".json")]
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_wheel_works_where_it_is_installed(installed):
    where = run_installed(installed, "import ltx23_core; print(ltx23_core.__file__)").strip()
    assert Path(where) == installed / "ltx23_core" / "__init__.py"
    module = "runpy.run_module('ltx23_core', run_name='__main__', alter_sys=True)"
    assert "identify" in run_installed(installed, module, "--help")
    assert "LTX-2.3, monolith, bf16" in run_installed(installed, module, "identify", str(TINY))


def test_what_is_imported_is_declared(wheel):
    used = set(imports(LIBRARY)) - set(sys.stdlib_module_names) - {"ltx23_core"}
    assert set(NOT_DECLARED) <= used
    wanted = {normal(DISTRIBUTIONS.get(name, name)) for name in used - set(NOT_DECLARED)}
    assert wanted == set(declared(wheel))


def test_the_environment_of_the_tests_has_what_is_declared(wheel):
    host = install.requirements(install.read_groups(install.Place(ROOT)), "host")
    needed = {name for name, bounds in declared(wheel).items() if "extra ==" not in bounds}
    assert needed <= {normal(re.match(r"[\w.-]+", line)[0]) for line in host}
