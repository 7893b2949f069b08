"""The user's files as an export reads them: never opened for writing, refused when they change meanwhile."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path

from ...errors import ExportError
from ..bytes.source import QuantRef
from .files import ALIGN, Made, OutputFile, Range

# Gives the parts of a weight that has an origin, in order.
Make = Callable[[QuantRef], Iterable[bytes | memoryview]]
_FICLONE = 0x40049409  # Linux: share all blocks of a file


class Sources:
    """The user's files, open for reading until `close`. None of them is ever opened for writing.

    Args:
        make: gives the bytes of weights that are made of theirs; None: there are none.
    """

    def __init__(self, make: Make | None = None) -> None:
        """Open nothing yet."""
        self._files: dict[Path, FileIO] = {}
        self._make = make
        self._last: tuple[Made, memoryview] | None = None

    def made(self, part: Made) -> memoryview:
        """All bytes of what is made; kept until the next one is asked for.

        Raises:
            WeightsError, OverlayError: its source cannot be read, or changed.
        """
        if self._last is None or self._last[0] is not part:
            self._last = None  # one at a time in memory
            self.open(part)
            data = bytearray().join((*self._make(part.ref), bytes(part.padding)))
            self._last = part, memoryview(data)
        return self._last[1]

    def open(self, part: Range | Made) -> FileIO:
        """The file of a range, unchanged since the overlay was made."""
        source = part.source
        try:
            if source.path not in self._files:
                self._files[source.path] = FileIO(source.path)
            file = self._files[source.path]
            source.check_stat(os.fstat(file.fileno()))
        except OSError as error:
            raise cannot_read(source.path, error) from error
        return file

    def read(self, part: Range, start: int, view: memoryview) -> None:
        """Fill a buffer from a position in the file of a range."""
        file, done = self.open(part), 0
        while done < len(view):
            try:
                file.seek(start + done)
                count = file.readinto(view[done:])
            except OSError as error:
                raise cannot_read(part.source.path, error) from error
            if not count:
                raise ExportError(f"{part.source.path} ended while it was copied", f"{part.source.size} bytes",
                                  "Check the disk, and download the file again if it is shorter.")
            done += count

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()


def copied_bytes(file: OutputFile, folder: Path) -> int:
    """Space that a file needs in a folder where what can be shared with its sources is shared."""
    needed = file.size
    for position, part in file.placed():
        if isinstance(part, Made):
            continue
        whole_blocks = max(0, part.end - part.start - 2 * ALIGN)
        if (part.start - position) % ALIGN == 0 and _shares(part.source.path, folder):
            needed -= whole_blocks
    return needed


def _shares(path: Path, folder: Path) -> bool:
    """Whether a new file in a folder can share blocks with a file: tried with a file that vanishes."""
    try:
        import fcntl
        with open(path, "rb") as source, tempfile.TemporaryFile(dir=folder) as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except (ImportError, OSError):
        return False
    return True


def cannot_write(path: Path, error: OSError) -> ExportError:
    """What a user is told when writing fails."""
    return ExportError(f"{path} cannot be written ({error.strerror or error})",
                       "a folder with write permission and free space",
                       "Mend that and give the same command again: it goes on where it stopped.")


def cannot_read(path: Path, error: OSError) -> ExportError:
    """What a user is told when reading fails."""
    return ExportError(f"{path} cannot be read ({error.strerror or error})", "a readable disk",
                       "Check the disk, then give the same command again: it goes on where it stopped.")
