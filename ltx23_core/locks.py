"""One process at a time: the lock files of manifests, exports and downloads, made and deleted in one place."""
from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

SOFT = ".soft"  # added to the name where the file system knows no locks
# What such file systems answer: some network mounts, FUSE, Android. Old versions of filelock raise NotImplementedError.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}


class Busy(Exception):
    """Another process, or another thread of this one, holds a lock.

    Args:
        path: of the lock file, for people who know that nobody does.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is held")
        self.path = path


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is there; it is deleted afterwards, by its holder alone.

    The lock of a process that was killed is free at once, except where the file system knows no locks: there the mere
    presence of a file is the lock (`SOFT`), which somebody may have to delete.

    Args:
        path: of the lock file.
        seconds: to wait for another holder.

    Raises:
        Busy: it is held for longer.
        OSError: the file cannot be made.
    """
    lock = _acquired(path, seconds)
    ours = _identity(path)
    try:
        yield
    finally:
        # Deleted while it is held: who waits for it notices that his file is gone and makes a new one. Freed first, the
        # next holder's file would be deleted under him, and two would hold it. Not where somebody else's lies there
        # by now. Windows deletes no open file; there, and for soft locks, filelock does it.
        is_soft = isinstance(lock, SoftFileLock) and Path(lock.lock_file) == path
        if os.name != "nt" and not is_soft and _identity(path) == ours:
            with suppress(OSError):
                path.unlink()
        lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path: deleted and made again, it is another one."""
    with suppress(OSError):
        info = path.stat()
        return info.st_dev, info.st_ino
    return None


def _acquired(path: Path, seconds: float) -> FileLock | SoftFileLock:
    try:
        return _taken(FileLock(path, timeout=seconds), path)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    # Under another name: the attempt above has left an empty file, which would look like a holder's.
    soft = path.with_name(path.name + SOFT)
    return _taken(SoftFileLock(soft, timeout=seconds), soft)


def _taken(lock: FileLock | SoftFileLock, path: Path) -> FileLock | SoftFileLock:
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(path) from error
    return lock
