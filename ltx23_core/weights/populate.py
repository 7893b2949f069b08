"""Mapping a file's cached pages into the process before the driver asks for them one by one.

``MADV_POPULATE_READ`` (Linux 5.14) by several threads. It reads no byte on our side: where a page is gone because the
file shrank, it answers with an error, while touching the page would end the process.
"""
from __future__ import annotations

import ctypes
import errno
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

_log = logging.getLogger("ltx23")

POPULATE_READ = 22  # MADV_POPULATE_READ, the same on every architecture
THREADS = 8  # measured: one is slower than the driver itself, eight take 10 ms a GB
AT_ONCE = 32 << 20  # bytes


def populate(address: int, size: int) -> bool:
    """Map the pages of a shared read-only mapping of a file; whether all are mapped.

    Without effect where the system cannot: registering then maps them itself.

    Args:
        address: of the first byte, a multiple of the page size.
        size: bytes.
    """
    advise = _advise()
    if advise is None or size <= 0:
        return False

    def one(at: int) -> int:
        # Through ctypes, which lets other Python threads run meanwhile; `mmap.madvise` does not.
        done = advise(address + at, min(AT_ONCE, size - at), POPULATE_READ)
        return ctypes.get_errno() if done else 0

    with ThreadPoolExecutor(THREADS, thread_name_prefix="ltx23-map") as pool:  # of this call: a fork has no threads
        errors = set(pool.map(one, range(0, size, AT_ONCE))) - {0}
    if errors:
        _log.debug("pages are not mapped ahead: %s", ", ".join(errno.errorcode.get(each, "?") for each in errors))
    return not errors


@cache
def _advise() -> ctypes._CFuncPtr | None:
    """``madvise`` of the C library; None on other systems."""
    if sys.platform != "linux":
        return None
    try:
        advise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return advise
