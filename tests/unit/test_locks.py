"""The lock file that manifests, exports and downloads share: one holder at a time, also while it is being deleted."""
from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import filelock
import pytest

from ltx23_core import locks
from ltx23_core.locks import SOFT, Busy, locked

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 300
# Takes the lock again and again; what only one may do at a time is make a file that is not there.
WORKER = """
import os, sys
from pathlib import Path
from ltx23_core.locks import locked
lock, rounds = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(rounds):
    with locked(lock, 300):
        os.close(os.open(lock.with_name("inside"), os.O_CREAT | os.O_EXCL))
        os.unlink(lock.with_name("inside"))
"""
HOLDER = """
import sys, time
from pathlib import Path
from ltx23_core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_never_hold_it_at_once(tmp_path: Path) -> None:
    workers = [process(WORKER, tmp_path / ".x.lock", ROUNDS) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=500)
        assert worker.returncode == 0, errors
    assert list(tmp_path.iterdir()) == []


def test_it_is_deleted_before_it_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever takes it between the two has his file deleted under him, and a third one takes a new one."""
    path, seen = tmp_path / ".x.lock", []
    release = filelock.FileLock.release
    monkeypatch.setattr(filelock.FileLock, "release", lambda lock, *a, **k: (seen.append(path.exists()),
                                                                             release(lock, *a, **k))[1])
    with locked(path):
        assert path.exists()
    assert seen[0] is (os.name == "nt")
    assert not path.exists()


def test_another_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / ".x.lock"
    holder = process(HOLDER, path)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy) as busy, locked(path):
            pass
        assert busy.value.path == path
        assert path.exists()
    finally:
        holder.send_signal(signal.SIGTERM)
        holder.communicate(timeout=30)
    with locked(path, 5):  # of a killed one: free at once
        pass
    assert not path.exists()


def test_lock_of_somebody_else_in_its_place_is_not_deleted(tmp_path: Path) -> None:
    """A user deleted the file while it was held, as the message allows, and another process took a new one."""
    path = tmp_path / ".x.lock"
    with locked(path):
        path.unlink()
        other = filelock.FileLock(path, timeout=0)
        other.acquire()
    assert path.exists()
    with pytest.raises(Busy), locked(path):
        pass
    other.release()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """There the presence of a file is the lock. None: what filelock raised before it fell back by itself."""
    path = tmp_path / ".x.lock"
    if code is None:
        def acquire(self: object, *_: object, **__: object) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")
        monkeypatch.setattr(locks, "FileLock", type("Old", (), {"__init__": lambda *_, **__: None, "acquire": acquire}))
    else:
        fcntl = pytest.importorskip("fcntl", reason="file systems of Unix")

        def flock(fd: int, operation: int) -> None:
            raise OSError(code, os.strerror(code))
        monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock says that it falls back
        for _ in range(2):  # it is given back
            with locked(path):
                with pytest.raises(Busy) as busy, locked(path):
                    pass
                assert busy.value.path in (path, path.with_name(path.name + SOFT))
                assert busy.value.path.exists()
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(SOFT)] == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file" / ".x.lock"):
        pass


def test_time_to_wait(tmp_path: Path) -> None:
    with locked(tmp_path / "l"):
        start = time.monotonic()
        with pytest.raises(Busy), locked(tmp_path / "l", 0.2):
            pass
    assert 0.2 <= time.monotonic() - start < 10
