"""What the system knows of a file without reading it: whether it is in the page cache, and on another computer."""
from __future__ import annotations

import os
from pathlib import Path

_STEP = 8 << 20  # bytes between two samples: files come into the cache in large runs
_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "beegfs")


def is_cached(handle: int, start: int, end: int) -> bool:
    """Whether bytes [start, end) of an open file are in the page cache, by samples.

    Linux answers without reading (``RWF_NOWAIT``). Where it cannot say (tmpfs, which is memory itself, or another
    system), the answer is yes.
    """
    if not hasattr(os, "preadv") or not hasattr(os, "RWF_NOWAIT"):
        return True
    byte = bytearray(1)
    return all(_answers(handle, byte, at) for at in (*range(start, end, _STEP), end - 1))


def _answers(handle: int, byte: bytearray, at: int) -> bool:
    try:
        os.preadv(handle, [byte], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # the file system knows no such question
        return True
    return True


def file_system(path: Path) -> str:
    """Type of the file system that a file lies on ("ext4", "tmpfs", "nfs4"); "" where that is not known."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    real = os.path.realpath(path)
    for line in lines:
        fields = line.split()
        place = fields[4].encode().decode("unicode_escape")  # \040 for a space
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= best:
            best, kind = len(place), fields[fields.index("-") + 1]
    return kind


def is_remote(kind: str) -> bool:
    """Whether a file system is a network drive or that of a program (FUSE)."""
    return kind in _REMOTE or kind.startswith("fuse")


def is_memory(kind: str) -> bool:
    """Whether a file system lies in memory, so that its files' pages take the same whether registered or not."""
    return kind in ("tmpfs", "ramfs")
