"""The computer's own memory: how much there is, and how much of it could be had."""
from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def total_ram() -> int | None:
    """Bytes of RAM that this process may use: the computer's, or its container's; None where that is not known."""
    total = _meminfo("MemTotal")
    if total is None:
        total = _by_psutil("total") or _by_sysconf()
    if total is None:
        return None
    for path in _CGROUPS:
        limit = _number(path)
        if limit is not None:
            total = min(total, limit)
    return total


def available_ram() -> int | None:
    """Bytes that could be had without swapping, the page cache included; None where that is not known."""
    available = _meminfo("MemAvailable")
    if available is None:
        return _by_psutil("available")
    return available


def _meminfo(name: str) -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
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
