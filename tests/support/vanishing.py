"""A file that goes while somebody reads it."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

WAYS = ("cut", "deleted", "replaced")


def goes(file: Path, how: str) -> Callable[..., None]:
    """A callback for every step that cuts a file to a twentieth, deletes it, or puts zeros of the same size there."""
    size = file.stat().st_size

    def go(*_: object) -> None:
        if how == "cut":
            os.truncate(file, size // 20)
        elif file.exists():
            file.unlink()
            if how == "replaced":
                file.write_bytes(bytes(size))

    return go
