"""Manifests are written whole or not at all: killed writers, two at once, full and read-only disks, odd names."""
from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from ltx23_core.errors import OverlayError
from ltx23_core.overlay import Overlay, manifest, materialize
from ltx23_core.overlay.shelf.identify import identify
from ltx23_core.overlay.shelf.shelf import Shelf, walk
from tests.goldens.harness import CHECKPOINT
from tests.support.kill import KILLS, child, wait
from tests.support.overlay import refuses

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and signals are those of Unix")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(CHECKPOINT, tmp_path / CHECKPOINT.name))


def contents(tiny: Path) -> tuple[dict[str, str], Path]:
    """id -> text of two manifests of the same file, and their place, where the first one stands."""
    path = tiny.with_name(tiny.name + ".ltx23.json")
    texts = {}
    for variant in ("distilled", "dev"):
        overlay = materialize(tiny, variant=variant)
        texts[overlay.id] = path.read_text()
    assert len(texts) == 2
    return texts, path


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def make_old(folder: Path) -> None:
    """What was left behind now was left behind long ago."""
    for name in hidden(folder):
        os.utime(folder / name, (1, 1))


def killed(how: str, tiny: Path) -> tuple[dict, dict[str, str], Path]:
    """What `kill_support` saw, the two manifests, and their place."""
    texts, path = contents(tiny)
    other = tiny.with_name("other.json")
    other.write_text(next(text for text in texts.values() if text != path.read_text()))
    command = [sys.executable, "-m", "tests.support.kill", how, str(path), str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout), texts, path


def test_killed_at_random_times(tiny: Path) -> None:
    result, texts, path = killed("random", tiny)
    assert result["kills"] == KILLS and sum(result["ids"].values()) == KILLS
    assert set(result["ids"]) == set(texts)
    assert result["temporary"] > 5, "hardly a kill hit a writer: the test is worth nothing"
    make_old(tiny.parent)
    assert materialize(tiny).id in texts
    assert not hidden(tiny.parent), "leftovers pile up"


def test_leftovers_go_where_the_manifest_is_there_already(tiny: Path) -> None:
    materialize(tiny)
    left = tiny.with_name(f".{tiny.name}.ltx23.json.1-00000000.tmp")
    left.write_bytes(b"half")
    make_old(tiny.parent)
    materialize(tiny)
    assert not hidden(tiny.parent)


def test_killed_at_every_line(tiny: Path) -> None:
    """Before each line that `save` and the lock go through."""
    result, texts, path = killed("lines", tiny)
    for which in ("replaced", "first"):
        states = result[which]
        assert states["lines"] > 30 and not states["wrong"] and states["new"], states
        assert not states["old" if which == "first" else "none"] and states["none" if which == "first" else "old"]
    manifest.save(path, next(iter(texts.values())))  # what was left behind is in nobody's way
    make_old(tiny.parent)
    manifest.save(path, next(iter(texts.values())))
    assert Overlay.load(path).id in texts and not hidden(tiny.parent)


def test_whole_materialize_killed(tiny: Path) -> None:
    texts, path = contents(tiny)

    def loop() -> None:
        for variant in ("distilled", "dev") * 1000:
            materialize(tiny, variant=variant)

    rng = random.Random(6)
    for _ in range(10):
        pid = child(loop)
        time.sleep(rng.uniform(0.1, 0.5))
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        assert Overlay.load(path).id in texts


@pytest.mark.parametrize("share", [0, 0.5])
def test_killed_within_a_write(share: float, tiny: Path) -> None:
    """Half of the text is on the disk, in the temporary file."""
    texts, path = contents(tiny)
    old = path.read_text()

    def work() -> None:
        def fsync(handle: int) -> None:
            os.ftruncate(handle, int(len(old) * share))
            os.kill(os.getpid(), signal.SIGKILL)

        manifest.os.fsync = fsync
        manifest.save(path, next(iter(texts.values())))

    assert wait(child(work)) == -signal.SIGKILL
    assert path.read_text() == old and Overlay.load(path).id in texts
    manifest.save(path, next(iter(texts.values())))
    assert path.read_text() != old


def test_fresh_temporary_files_of_others_stay(tiny: Path) -> None:
    other = tiny.with_name(f".{tiny.name}.ltx23.json.0123456789ab.tmp")
    other.write_text("a writer on a disk without locks")
    foreign = tiny.with_name(f".{tiny.name}.other.json.0123456789ab.tmp")
    foreign.write_text("of another manifest")
    os.utime(foreign, (1, 1))
    materialize(tiny)
    assert other.exists() and foreign.exists()


def test_writers_and_readers_at_once(tiny: Path) -> None:
    texts, path = contents(tiny)

    def write() -> None:
        for _ in range(20):
            for text in texts.values():
                manifest.save(path, text)

    pids = [child(write) for _ in range(3)]
    seen = {Overlay.load(path).id for _ in range(15)}
    assert [wait(pid) for pid in pids] == [0, 0, 0]
    assert seen <= set(texts) and not hidden(tiny.parent)


def test_lock_that_is_held(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = materialize(tiny).path
    before = path.read_bytes()
    monkeypatch.setattr(manifest, "_LOCK_SECONDS", 0.2)
    with FileLock(path.with_name(f".{path.name}.lock")):
        error: list[Exception] = []

        def write() -> None:  # a lock may be taken twice within one thread
            try:
                materialize(tiny, variant="distilled")
            except OverlayError as raised:
                error.append(raised)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(100)
    assert "another process has been writing" in str(error[0]) and path.read_bytes() == before


# --- disks

@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk; the limits of files below are tested for everyone")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_full_disk(tiny: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=400k") as disk:
        output = disk / "o.json"
        old = materialize(tiny, output=output)
        before = output.read_bytes()
        with open(disk / "filling", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with refuses(OverlayError, str(output), "No space left", "output"):
            materialize(tiny, variant="distilled", output=output)
        assert output.read_bytes() == before and Overlay.load(output) == old
        assert not hidden(disk)
        (disk / "filling").unlink()
        assert materialize(tiny, variant="distilled", output=output).id != old.id


def test_read_only_disk(tiny: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16m") as disk:
        file = Path(shutil.copyfile(tiny, disk / tiny.name))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with refuses(OverlayError, "cannot be written", "Read-only", "output"):
            materialize(file)
        assert materialize(file, output=tmp_path / "o.json").sources[0].path == file


def test_file_size_limit(tiny: Path) -> None:
    """The kernel stops the write in the middle, for everyone."""
    old = materialize(tiny)
    before = old.path.read_bytes()

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with refuses(OverlayError, "cannot be written", "too large"):
            materialize(tiny, variant="distilled")

    assert wait(child(work)) == 0
    assert old.path.read_bytes() == before and not hidden(tiny.parent)


def as_nobody(work: Callable[[], object]) -> int:
    """Permissions do not bind root: run as somebody else."""
    def drop() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
        work()

    return wait(child(drop))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that somebody else may reach: those of pytest are for one user alone."""
    import tempfile
    folder = Path(tempfile.mkdtemp(prefix="ltx23 safety "))
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
    shutil.rmtree(folder)


def test_what_may_not_be_read(open_folder: Path) -> None:
    from tests.goldens.harness import GEMMA
    materialize(CHECKPOINT, GEMMA, output=open_folder / "o.json")  # imports all, which nobody may not read
    model = Path(shutil.copyfile(CHECKPOINT, open_folder / CHECKPOINT.name))
    closed = open_folder / "closed"
    closed.mkdir()
    shutil.copyfile(CHECKPOINT, closed / "inside.safetensors")
    locked = Path(shutil.copyfile(CHECKPOINT, open_folder / "locked.safetensors"))
    gemma = Path(shutil.copytree(GEMMA, open_folder / "gemma", copy_function=shutil.copyfile))
    pipeline = open_folder / "pipeline" / "transformer"
    pipeline.mkdir(parents=True)
    (open_folder / "pipeline" / "model_index.json").write_text("{}")
    for path in (locked, closed, gemma / "tokenizer.json", pipeline):
        path.chmod(0)

    def work() -> None:
        for path in (locked, closed, closed / "inside.safetensors", open_folder / "pipeline"):
            assert not identify(path).usable, identify(path)
            with refuses(OverlayError, "cannot be read"):
                materialize(path, output=open_folder / "new.json")
        with refuses(OverlayError, "tokenizer.json", "cannot be read"):
            materialize(model, gemma, output=open_folder / "new.json")
        assert CHECKPOINT.name in set(walk(open_folder))
        assert any(item.name == CHECKPOINT.name and item.identity.usable
                   for item in Shelf().look([("checkpoints", open_folder)]))
        assert not (open_folder / "new.json").exists()

    assert as_nobody(work) == 0


def test_read_only_folder(open_folder: Path) -> None:
    materialize(CHECKPOINT, output=open_folder / "o.json")
    folder = open_folder / "only for reading"
    folder.mkdir()
    model = Path(shutil.copyfile(CHECKPOINT, folder / CHECKPOINT.name))
    folder.chmod(0o555)

    def work() -> None:
        with refuses(OverlayError, "cannot be written", "Permission denied", "output"):
            materialize(model)
        assert materialize(model, output=open_folder / "o2.json").sources[0].path == model

    assert as_nobody(work) == 0


# --- names and links

NAMES = ["two words", "it's \"quoted\"", "ünï漢字 🦊", "line\nbreak", "tab\tand\rreturn", "%s {0} $HOME `x` \\n",
         "a;b|c&d", "\u202egnp", "x" * 200, b"not \xff utf-8".decode(errors="surrogateescape")]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_names(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name[:60]
    folder.mkdir()
    path = Path(shutil.copyfile(CHECKPOINT, folder / f"{name}.safetensors"))
    overlay = materialize(path)
    assert Overlay.load(overlay.path) == overlay and overlay.sources[0].path == path
    assert identify(path).usable and list(walk(tmp_path)) == [f"{folder.name}/{path.name}"]
    assert Shelf(tmp_path / "memory.json").look([("checkpoints", tmp_path)])[0].identity.usable
    os.truncate(path, 10_000)
    for broken in (lambda: materialize(path), overlay.verify):
        with pytest.raises(OverlayError) as raised:
            broken()
        message = str(raised.value)
        assert len(message.splitlines()) == 1 and message.encode() and "\u202e" not in message


def test_names_that_are_too_long(tmp_path: Path) -> None:
    path = Path(shutil.copyfile(CHECKPOINT, tmp_path / ("x" * 243 + ".safetensors")))
    with refuses(OverlayError, "cannot be written", "too long", "output"):
        materialize(path)
    assert materialize(path, output=tmp_path / "o.json").sources[0].path == path
    for name in ("x" * 300, "null\0", "half \ud800"):
        assert not identify(tmp_path / name).usable
        with pytest.raises(OverlayError, match="cannot be read"):
            materialize(tmp_path / name, output=tmp_path / "none.json")


def test_links_in_circles(tmp_path: Path) -> None:
    model = Path(shutil.copyfile(CHECKPOINT, tmp_path / CHECKPOINT.name))
    (tmp_path / "self.safetensors").symlink_to("self.safetensors")
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "back").symlink_to("../..")
    (tmp_path / "gone.safetensors").symlink_to("nothing")
    assert [name for name in walk(tmp_path) if name.endswith(model.name)] == [model.name]
    items = Shelf().look([("checkpoints", tmp_path)])
    assert [item.name for item in items if item.identity.usable] == [model.name]
    for name in ("self", "a", "b", "gone"):
        assert identify(tmp_path / f"{name}.safetensors").kind == "broken_link"
        with refuses(OverlayError, name, "cannot be read"):
            materialize(tmp_path / f"{name}.safetensors")
    identify(tmp_path)
    started = time.monotonic()
    with contextlib.suppress(OverlayError):
        materialize(tmp_path, output=tmp_path / "o.json")
    assert time.monotonic() - started < 100


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert identify(path).kind == "no_file"
        with refuses(OverlayError, "not an ordinary file"):
            materialize(path, output=tmp_path / "o.json")
        with refuses(OverlayError, "not an ordinary file"):
            Overlay.load(path)
    model = Path(shutil.copyfile(CHECKPOINT, tmp_path / CHECKPOINT.name))
    overlay = materialize(model)
    model.unlink()
    os.mkfifo(model)
    with refuses(OverlayError, "cannot be read any more"):
        overlay.verify()
