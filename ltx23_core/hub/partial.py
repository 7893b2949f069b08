"""A file while it arrives: resumable, hashed on the way, renamed when it is whole and right."""
from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .errors import HubError, is_passing
from .remote import CHUNK, Hub, RemoteFile

RETRIES = 5        # one after the other that bring nothing new
RETRY_PAUSE = 1.0  # seconds, times the number of the retry
DOWNLOADED, UNCHECKED = "downloaded, hash checked", "downloaded (the server states no hash)"
_SHOWN = 16        # digits of a hash in a message


def partial_path(target: Path, file: RemoteFile) -> Path:
    """Where a file lies until it is whole: hidden beside its place, one name for each content."""
    return target.with_name(f".{target.name}.{hashlib.sha256(file.etag.encode()).hexdigest()[:8]}.incomplete")


class Partial:
    """The part of a file that is there, open for more.

    Args:
        path: see `partial_path`.
        file: what it is to become.
        tick: told how many bytes came in, or were read again; negative where they are given up. May raise to stop.
    """

    def __init__(self, path: Path, file: RemoteFile, tick: Callable[[int], None]) -> None:
        self.path, self.file, self._tick, self.size = path, file, tick, 0
        self.is_cut = False  # whether the server sent more than the hub stated, which was not written

    def __enter__(self) -> Partial:
        """Open, and hash what an earlier run has brought."""
        self._open = self.path.open("a+b")
        try:
            self._digest = _digest(self.file)
            self._open.seek(0)
            while self.size <= self.file.size and (chunk := self._open.read(CHUNK)):
                self._digest.update(chunk)
                self._count(len(chunk))
            if self.size > self.file.size:
                self.restart()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close; the part stays for the next run."""
        self._open.close()

    def add(self, chunk: bytes) -> None:
        """Append; what goes beyond the stated size is cut off: a server cannot fill the disk."""
        room = self.file.size - self.size
        if len(chunk) > room:
            self.is_cut = True
            chunk = chunk[:room]
        self._open.write(chunk)
        self._digest.update(chunk)
        self._count(len(chunk))

    def restart(self) -> None:
        """Give up what is there."""
        self._open.truncate(0)
        self._digest = _digest(self.file)
        self.is_cut = False
        self._count(-self.size)

    def finish(self, target: Path) -> None:
        """Move the whole file to its place; one with another hash is deleted.

        Raises:
            HubError: the content is not what the hub says.
        """
        self._open.flush()
        os.fsync(self._open.fileno())
        self._open.close()
        got = self._digest.hexdigest()
        if self.is_cut and not _is_hash(self.file.etag):
            self.path.unlink()
            raise HubError(f"the server sent more than {target.name} is, and states no hash to tell what it "
                           "is", f"{self.file.size} bytes, as the hub says",
                           "Try again; if it happens again, do not use this server or proxy.")
        if self.size != self.file.size or (_is_hash(self.file.etag) and got != self.file.etag):
            self.path.unlink()
            size = f"{self.size} bytes"
            if self.is_cut:
                size += " and more"
            raise HubError(f"what arrived as {target.name} is {size} with the hash {got[:_SHOWN]}…",
                           f"{self.file.size} bytes with the hash {self.file.etag[:_SHOWN]}…",
                           "Try again: the damaged download was deleted. If it happens again, a proxy, a "
                           "virus scanner or the disk changes data.")
        os.replace(self.path, target)

    def _count(self, bytes_: int) -> None:
        self.size += bytes_
        self._tick(bytes_)


def _is_hash(etag: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) is not None


def _digest(file: RemoteFile) -> hashlib._Hash:
    """The hash that an etag of this length is: SHA-256 of the content, or git's SHA-1 of a blob."""
    if len(file.etag) != hashlib.sha1(usedforsecurity=False).digest_size * 2:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def download(hub: Hub, file: RemoteFile, target: Path, tick: Callable[[int], None]) -> str:
    """Bring a file to its place, beginning where an earlier run stopped -> how it came, for the user.

    Raises:
        HubError: the content is wrong.
        Exception: of the HTTP client, after some retries without a new byte.
    """
    with Partial(partial_path(target, file), file, tick) as partial:
        failures = 0
        while partial.size < file.size:
            before = partial.size
            try:
                with hub.stream(file, partial.size) as (start, chunks):
                    if start != partial.size:
                        partial.restart()
                    for chunk in chunks:
                        partial.add(chunk)
                        if partial.is_cut:
                            break
                if partial.size == before:
                    raise ConnectionError("the server sent nothing")
            except Exception as error:
                if partial.size > before:
                    failures = 0
                failures += 1
                if failures > RETRIES or not is_passing(error):
                    raise
                time.sleep(RETRY_PAUSE * failures)
                tick(0)
        partial.finish(target)
    way = UNCHECKED
    if _is_hash(file.etag):
        way = DOWNLOADED
    if partial.is_cut:
        way += ", the server sent more than that: cut off"
    return way
