"""models/ltx23_overlays is cleaned of what nobody uses, by age, and nothing that another process works with goes."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltx23_core.overlay import clean as cleaning
from ltx23_core.overlay import materialize
from ltx23_core.overlay.clean import DAY, HOUR, UNUSED, clean
from tests.goldens.harness import CHECKPOINT

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from ltx23_core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def aged(path: Path, seconds: float) -> Path:
    when = time.time() - seconds
    os.utime(path, (when, when))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "overlays").mkdir()
    return tmp_path / "overlays"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(CHECKPOINT, tmp_path / "tiny-dev.safetensors"))


def manifest(folder: Path, source: Path, number: int, age: float) -> Path:
    path = materialize(source, output=folder / f"tiny-dev-0000000{number}.ltx23.json").path
    return aged(path, age)


def test_manifests(folder: Path, source: Path, tmp_path: Path) -> None:
    other = Path(shutil.copyfile(CHECKPOINT, tmp_path / "gone-dev.safetensors"))
    young = manifest(folder, other, 1, DAY - HOUR)
    orphan = manifest(folder, other, 2, DAY + HOUR)
    other.unlink()
    used = manifest(folder, source, 3, UNUSED - HOUR)
    unused = manifest(folder, source, 4, UNUSED + HOUR)
    wanted = manifest(folder, source, 5, UNUSED + HOUR)
    assert clean(folder, keep=[wanted]) == [orphan.name, unused.name]
    assert sorted(folder.iterdir()) == sorted([young, used, wanted])
    assert source.exists()


def test_leftovers(folder: Path) -> None:
    old = [aged(Path(shutil.copyfile(__file__, folder / name)), HOUR + 60) for name in (
        ".x-01234567.ltx23.json.0123456789ab.tmp", ".files.json.0123456789ab.tmp", ".x-01234567.ltx23.json.lock",
        ".x-01234567.ltx23.json.4711-0123abcd.tmp")]
    young = [aged(Path(shutil.copyfile(__file__, folder / name)), HOUR - 60) for name in (
        ".y-01234567.ltx23.json.0123456789ab.tmp", ".y-01234567.ltx23.json.lock")]
    assert sorted(clean(folder)) == sorted(path.name for path in old)
    assert sorted(folder.iterdir()) == sorted(young)


def test_what_is_not_ours_stays(folder: Path, source: Path) -> None:
    names = ["mine.ltx23.json", "notes.txt", "x-01234567.json", ".hidden", "files.json", "x.safetensors", ".lock",
             "a.tmp", "mine-01234567.ltx23.json"]
    for name in names:
        (folder / name).write_text("{}" if name.startswith("mine-") else "something")
        aged(folder / name, UNUSED - DAY)
    assert clean(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_lock_that_another_process_holds_stays(folder: Path, source: Path) -> None:
    """And the manifest that it writes."""
    path = manifest(folder, source, 1, UNUSED + DAY)
    lock = path.with_name(f".{path.name}.lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        aged(lock, 10 * DAY)
        assert clean(folder) == []
        assert path.exists() and lock.exists()
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    assert clean(folder) == [lock.name, path.name]
    assert list(folder.iterdir()) == []


def test_a_manifest_made_anew_meanwhile_stays(folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process wrote it between the look at its age and the lock."""
    path = manifest(folder, source, 1, UNUSED + DAY)
    taken = cleaning.locked

    def locked(lock: Path, seconds: float = 0) -> object:
        os.utime(path)
        return taken(lock, seconds)

    monkeypatch.setattr(cleaning, "locked", locked)
    assert clean(folder) == [] and path.exists()


def test_two_clean_at_once(folder: Path, source: Path) -> None:
    for number in range(9):
        manifest(folder, source, number, UNUSED + DAY)
    code = "import sys; from pathlib import Path; from ltx23_core.overlay.clean import clean; clean(Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT) for _ in range(2)]
    assert [each.wait(300) for each in both] == [0, 0]
    clean(folder)
    assert list(folder.iterdir()) == []


def test_no_folder(tmp_path: Path) -> None:
    assert clean(tmp_path / "none") == []
