"""Writes one file of an export from ranges of its sources: constant memory, resumable, compared when complete.

The bytes go into ``.<name>.partial``; how many of them are safely on the disk stands in ``.<name>.partial.json``.
A file gets its name only when it is complete and, if asked for, was compared with its sources byte by byte.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from ...atomic import publish, sweep_of, write_whole
from ...errors import ExportError
from .files import ALIGN, Made, OutputFile, Range
from .sources import Sources, cannot_read, cannot_write

KERNEL_BYTES = 64 << 20  # of one request to the kernel
BUFFER_BYTES = 16 << 20  # of a copy through memory, and of a comparison
SYNC_BYTES = 1 << 30  # after so many bytes they are forced to the disk and the journal moves on

Step = Callable[[int], None]  # told how many bytes were done; may raise to interrupt


class FileWriter:
    """Writes one output file.

    Args:
        root: folder of the export.
        file: what to write.
        sources: to read from.
        step: called after every piece.
    """

    def __init__(self, root: Path, file: OutputFile, sources: Sources, step: Step = lambda _: None) -> None:
        """Look how much of the file an earlier run has left."""
        self.file, self.sources, self.step = file, sources, step
        self.target = root / file.name
        self.partial = self.target.with_name(f".{self.target.name}.partial")
        self.journal = journal_of(self.target)
        self.done = self._left()
        self._buffer = memoryview(bytearray())  # made where it is needed
        self._plain: set[Path] = set()  # sources that the kernel does not copy from

    def _left(self) -> int:
        """Bytes of the partial file that can be relied on."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            entry = json.loads(self.journal.read_text(encoding="utf-8"))
            done = int(entry["done"])
            if entry["fingerprint"] == self.file.fingerprint and 0 <= done <= self.partial.stat().st_size:
                return min(done, self.file.size)
        return 0

    def copy(self) -> None:
        """Complete the partial file. However this ends, the journal says how far it came.

        Raises:
            ExportError: the disk is full or not writable, or a source cannot be read.
            OverlayError: a source changed after the overlay was made.
        """
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with open(self.partial, "r+b" if self.done else "wb", buffering=0) as out:
                try:
                    self._fill(out)
                    out.truncate(self.file.size)
                finally:
                    self._sync(out)
        except OSError as error:
            raise cannot_write(self.target, error) from error

    def _fill(self, out: FileIO) -> None:
        synced = self.done
        if head := self.file.head[self.done:]:
            _write(out, self.done, memoryview(head))
            self._advance(len(head))
        for position, part in self.file.placed():
            while self.done < position + part.size:
                self._advance(self._piece(out, part, part.start + self.done - position))
                if self.done - synced >= SYNC_BYTES:
                    self._sync(out)
                    synced = self.done

    def _advance(self, count: int) -> None:
        self.done += count
        self.step(count)

    def _piece(self, out: FileIO, part: Range | Made, start: int) -> int:
        """Copy bytes of a source from a position on to where the file ends so far; gives how many."""
        if isinstance(part, Made):
            made = self.sources.made(part)[start:start + BUFFER_BYTES]
            _write(out, self.done, made)
            return len(made)
        source = self.sources.open(part)
        if hasattr(os, "copy_file_range") and part.source.path not in self._plain:
            # Whole blocks of the source can be shared: one short piece up to the next block, then large ones.
            count = min(part.end - start, KERNEL_BYTES if start % ALIGN == 0 else ALIGN - start % ALIGN)
            with suppress(OSError):  # another file system, an old kernel, a full disk: the plain copy tells which
                if copied := os.copy_file_range(source.fileno(), out.fileno(), count, start, self.done):
                    return copied
            self._plain.add(part.source.path)
        view = self._view(part.end - start)
        self.sources.read(part, start, view)
        _write(out, self.done, view)
        return len(view)

    def _view(self, most: int) -> memoryview:
        if not self._buffer:
            self._buffer = memoryview(bytearray(BUFFER_BYTES))
        return self._buffer[:most]

    def _sync(self, out: FileIO) -> None:
        """Force what is written to the disk, then say so in the journal."""
        os.fsync(out.fileno())
        write_whole(self.journal, json.dumps({"fingerprint": self.file.fingerprint, "done": self.done}))

    def compare(self) -> str:
        """Read the partial file and its sources again and compare them; gives the SHA-256 of the file.

        Raises:
            ExportError: they differ; then the partial file is removed.
            OverlayError: a source changed meanwhile.
        """
        digest, position = hashlib.sha256(), 0
        try:
            with open(self.partial, "rb") as written:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the disk, not the cache
                for want in self._expected():
                    got = written.read(len(want))
                    if got != want:
                        break
                    digest.update(got)
                    position += len(got)
                    self.step(len(got))
        except OSError as error:
            raise cannot_read(self.partial, error) from error
        if position != self.file.size:
            self.remove()
            raise ExportError(f"{self.target} came out different from its sources after byte {position}",
                              "an exact copy",
                              "Check the disk and the memory of this computer, then export again.")
        return digest.hexdigest()

    def _expected(self) -> Iterator[bytearray | bytes | memoryview]:
        """What the file must hold, piece by piece."""
        yield self.file.head
        for _, part in self.file.placed():
            for start in range(part.start, part.end, BUFFER_BYTES):
                if isinstance(part, Made):
                    yield self.sources.made(part)[start:start + BUFFER_BYTES]
                    continue
                piece = bytearray(min(BUFFER_BYTES, part.end - start))
                self.sources.read(part, start, memoryview(piece))
                yield piece

    def finish(self) -> None:
        """Give the complete file its name."""
        try:
            publish(self.partial, self.target)
            forget_journal(self.target)
        except OSError as error:
            raise cannot_write(self.target, error) from error

    def remove(self) -> None:
        """Forget what was written."""
        for path in (self.journal, self.partial):
            with suppress(OSError):
                path.unlink()


def journal_of(target: Path) -> Path:
    """The file that says how much of an unfinished one can be relied on."""
    return target.with_name(f".{target.name}.partial.json")


def forget_journal(target: Path) -> None:
    """Delete the journal of a finished file, and what killed writers of the journal left.

    Raises:
        OSError: it cannot be deleted.
    """
    journal = journal_of(target)
    journal.unlink(missing_ok=True)
    sweep_of(journal)


def _write(out: FileIO, position: int, view: memoryview) -> None:
    out.seek(position)
    done = 0
    while done < len(view):
        done += out.write(view[done:])
