"""Removes from a folder of manifests what nobody uses any more. By age, and never what another process works with."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import LTX23Error
from ..locks import SOFT, Busy, locked
from .bytes.header import read_json
from .manifest import FORMAT

HOUR, DAY = 3600.0, 86_400.0
# Age of a temporary file, or of a lock, whose writer is gone: writing a manifest takes a second.
LEFTOVER = HOUR
ORPHAN = DAY  # age of a manifest whose files are gone: a disk may come back
# Age of a manifest whose files are there; each use makes it anew (`save`), and so does the next one.
UNUSED = 60 * DAY
MOST = 200  # manifests read in one go
# What the Overlay node and this library write there; all else is somebody's own.
_MANIFEST = re.compile(r".+-[0-9a-f]{8}\.ltx23\.json")
_LEFTOVER = re.compile(r"\..+\.json\..*\.?tmp")
_LOCK = re.compile(rf"\..+\.json\.lock(?:{re.escape(SOFT)})?")


def clean(folder: Path, keep: Iterable[Path] = ()) -> list[str]:
    """Delete what nobody uses: old manifests, temporary files of killed writers, locks that nobody holds.

    A manifest is made again whenever it is needed, so nothing is lost. What cannot be deleted stays, without an error.

    Args:
        folder: of manifests; may be absent.
        keep: manifests that stay, whatever their age.

    Returns:
        Names of what is gone.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    kept, gone, read = {path.name for path in keep}, [], 0
    for name in names:
        path = folder / name
        with suppress(OSError, Busy):
            age = time.time() - path.stat().st_mtime
            if _LEFTOVER.fullmatch(name) and age > LEFTOVER:
                path.unlink()
            elif _LOCK.fullmatch(name) and age > LEFTOVER:
                _free(path)
            elif _MANIFEST.fullmatch(name) and name not in kept and age > ORPHAN and read < MOST:
                read += 1
                _remove(path)
            if not os.path.lexists(path):
                gone.append(name)
    return gone


def _free(path: Path) -> None:
    """Delete a lock by taking it: whoever holds it keeps it. A soft one is free when it is a day old."""
    if path.name.endswith(SOFT):
        if time.time() - path.stat().st_mtime > DAY:
            path.unlink()
        return
    with locked(path):
        pass


def _remove(path: Path) -> None:
    """Delete a manifest if it is one of ours and still unused once nobody else can write it."""
    with locked(path.with_name(f".{path.name}.lock")):
        age = time.time() - path.stat().st_mtime
        if age > UNUSED or (age > ORPHAN and _is_orphan(path)):
            path.unlink()


def _is_orphan(path: Path) -> bool:
    """Whether a manifest names a file that is gone; of a file that is no manifest nothing is known."""
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            return False
        return not all(os.path.exists(file["path"]) for file in content["files"])
    except (LTX23Error, LookupError, TypeError, ValueError):
        return False
