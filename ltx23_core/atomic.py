"""Writing a file whole or not at all: a temporary file beside it, fsync, rename. Standard library only."""
from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

TEMPORARY = ".tmp"  # ending of what is being written; `is_leftover` knows it


def temporary_of(path: Path, ending: str = TEMPORARY) -> Path:
    """A name beside `path` that nothing else has: hidden, in the same folder, so that renaming is one step."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{ending}")


@contextmanager
def replacing(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:  # noqa: ANN401 (of `open`)
    """A file to write that takes the place of `path` when the block ends, and leaves no trace where it fails.

    Args:
        path: the file; its folder is there.
        mode: "wb" or "w".
        options: of `open`, for example the encoding.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    temporary = temporary_of(path)
    try:
        with open(temporary, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes with `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that others wrote its name, once its bytes are on the disk."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def is_leftover(name: str, of: str) -> bool:
    """Whether a file of this name is what a killed writer of `of` left behind."""
    return name.startswith(f".{of}.") and name.endswith(TEMPORARY)
