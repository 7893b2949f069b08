"""The text path on the oldest transformers that ComfyUI allows (4.50.3), in processes of their own.

It is installed once into .host/transformers-4.50.3 of the project, which git ignores, and reaches only those
processes. Where the package index cannot be reached, the tests are skipped and say so.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
VERSION = "4.50.3"
FOLDER = REPO / ".host" / f"transformers-{VERSION}"
PACKAGES = (f"transformers=={VERSION}", "tokenizers==0.21.4", "huggingface_hub==0.30.2")  # newest that fit it
GOLDENS = f"""
import transformers
assert transformers.__version__ == "{VERSION}", transformers.__version__
from tests.goldens import cases_text
from tests.goldens.harness import HANDLERS, Case
for name in ("connectors", "text_encode"):
    run = Case(name)
    HANDLERS[name](run)
    run.finish()
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Variables under which Python finds the old release before the installed one."""
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=FOLDER.parent))
        pip = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(new),
                              *PACKAGES], capture_output=True, text=True, timeout=600, check=False)
        if pip.returncode:
            shutil.rmtree(new)
            reason = f"transformers {VERSION} cannot be installed: {pip.stderr.strip()[-400:]}"
            print(reason)
            pytest.skip(reason)
        new.rename(FOLDER)  # complete or not there at all
    path = os.pathsep.join(filter(None, (str(FOLDER), str(REPO), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def run(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=REPO, env=environment, capture_output=True, text=True,
                          timeout=600, check=False)
    print(done.stdout[-6000:])
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_goldens(environment: dict[str, str]) -> None:
    run(["-c", GOLDENS], environment)


def test_enhancement(environment: dict[str, str]) -> None:
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(REPO / "tests" / "oracle" / "test_enhance.py")],
        environment)


def test_unit_tests(environment: dict[str, str]) -> None:
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(REPO / "tests/unit/models/test_text.py")], environment)
