"""Files whole or not at all: a temporary file beside, fsync, rename; and removing what a killed process left."""
from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp"  # ending of what is being written; `is_leftover` knows it
DAY = 86_400.0  # seconds; who writes touches his file far more often
_OWNED = re.compile(r"\.(\d+)-[0-9a-f]+\.\w+$")  # of `temporary_beside`
_KEPT = 100  # characters of the final name that a temporary shows


def temporary_beside(path: Path, suffix: str = TEMPORARY) -> Path:
    """A new hidden name in the same folder that says what it becomes and which process writes it."""
    return path.with_name(f".{path.name[:_KEPT]}.{os.getpid()}-{secrets.token_hex(4)}{suffix}")


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:  # noqa: ANN401 (of `open`)
    """A file to write that takes the place of `path` when the block ends, and leaves no trace where it fails.

    Args:
        path: the file; its folder is there.
        mode: "wb" or "w".
        options: of `open`, for example the encoding.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        with open(temporary, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes with `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that others wrote its name, once its bytes are on the disk."""
    _sync(temporary)
    os.replace(temporary, path)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def is_leftover(name: str, of: str) -> bool:
    """Whether a file of this name is what a killed writer of `of` left behind."""
    return name.startswith(f".{of}.") and name.endswith(TEMPORARY)


def publish_new(part: Path, path: Path) -> None:
    """Give a finished temporary file its name in one step; another process that does the same loses nothing.

    Raises:
        FileExistsError: there is a file of that name; the temporary stays.
        OSError: the folder cannot be written.
    """
    if os.name == "nt":
        os.rename(part, path)  # which refuses an existing target there
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links: take the name first, then replace our own empty file
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(part, path)
        return
    part.unlink()


def publish_free(part: Path, path: Path, next_path: Callable[[], Path] | None) -> Path:
    """Publish under a name, or, with ``next_path``, under the first that is free; returns the name.

    Its bytes are on the disk before it has one.

    Args:
        part: the finished temporary.
        path: the wanted name; without ``next_path`` a file of that name is replaced.
        next_path: gives the next name to try.
    """
    if next_path is None:
        publish(part, path)
        return path
    _sync(part)
    while True:
        try:
            publish_new(part, path)
            return path
        except FileExistsError:
            path = next_path()


def sweep(folder: Path, pattern: str, age: float = DAY) -> list[Path]:
    """Delete temporary files that nobody has written to for so long; returns those that are gone.

    A file whose name says that it belongs to another process stays as long as that process lives (where the system
    tells; Windows refuses to delete an open file). What cannot be deleted stays, without an error.

    Args:
        folder: may be absent.
        pattern: of `Path.glob`, of temporary files only.
        age: seconds.
    """
    gone = []
    with contextlib.suppress(OSError):
        for file in sorted(folder.glob(pattern)):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > age and not _is_owned(file.name):
                    file.unlink()
                    gone.append(file)
    return gone


def sweep_of(path: Path) -> list[Path]:
    """Delete what killed writers of one file left beside it, however young; see `sweep`."""
    return sweep(path.parent, f".{glob.escape(path.name[:_KEPT])}.*{TEMPORARY}", age=0.0)


def _is_owned(name: str) -> bool:
    """Whether the process in a name of `temporary_beside` is another one that lives."""
    found = _OWNED.search(name)
    if found is None or os.name != "posix" or int(found[1]) in (0, os.getpid()):
        return False
    try:
        os.kill(int(found[1]), 0)  # asks, sends nothing; on Windows it would end the process
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's process
        return True
    return True
