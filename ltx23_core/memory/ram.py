"""The computer's own memory: how much there is, and how much of it could be had."""
from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")


class _Group(NamedTuple):
    """Files of a container's memory limit: what it may use, what it uses, and of that the page cache's share."""
    limit: Path
    used: Path
    parts: Path
    cache: tuple[str, ...]


def _groups(root: Path) -> tuple[_Group, ...]:
    """Both versions of control groups, as a process inside a container sees its own."""
    old = root / "memory"
    return (
        _Group(root / "memory.max", root / "memory.current", root / "memory.stat",
               ("active_file", "inactive_file")),
        _Group(old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat",
               ("total_active_file", "total_inactive_file")),
    )


_GROUPS = _groups(Path("/sys/fs/cgroup"))


def total_ram() -> int | None:
    """Bytes of RAM that this process may use: the computer's, or its container's; None where that is not known."""
    total = _meminfo("MemTotal")
    if total is None:
        total = _by_psutil("total") or _by_sysconf()
    if total is None:
        return None
    limits = [limit for group in _GROUPS if (limit := _number(group.limit)) is not None]
    return min([total, *limits])


def available_ram() -> int | None:
    """Bytes that could be had without swapping, the page cache included; None where that is not known.

    In a container the least of what the computer has and what the container's limit leaves.
    """
    available = _meminfo("MemAvailable")
    if available is None:
        available = _by_psutil("available")
    if available is None:
        return None
    left = [bytes_left for group in _GROUPS if (bytes_left := _left(group)) is not None]
    return max(0, min([available, *left]))


def _left(group: _Group) -> int | None:
    """Bytes that a container may still take: its limit without what is used, the page cache counted as free."""
    limit, used = _number(group.limit), _number(group.used)
    if limit is None or used is None:
        return None
    return limit - used + sum(_field(group.parts, name) or 0 for name in group.cache)


def _meminfo(name: str) -> int | None:
    kilobytes = _field(_MEMINFO, name + ":")
    return None if kilobytes is None else kilobytes * 1024


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] == [name]:
                return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _by_psutil(name: str) -> int | None:
    """Windows and macOS; ComfyUI brings psutil."""
    try:
        import psutil
    except ImportError:
        return None
    return int(getattr(psutil.virtual_memory(), name))


def _by_sysconf() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
