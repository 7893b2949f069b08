"""Open files that fill buffers from byte ranges, with several threads.

One thread copies 6 to 8 GB/s out of the page cache, eight copy 50 GB/s (measured, H100 host), and some disks need
several requests under way. Each thread has a file handle of its own: that works on every system.
"""
from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from ..errors import WeightsError
from ..overlay.bytes.source import TensorRef

THREADS = min(8, os.cpu_count() or 1)
LEAST_BYTES = 4 << 20  # for a thread of its own


class SourceReader:
    """Reads ranges of any number of files, which stay open until `close`. ``pool``: the reading threads."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ltx23-read")
        self._mine = threading.local()
        self._handles: list[FileIO] = []

    def close(self) -> None:
        """Wait for reads under way, drop those that have not begun, and close all files."""
        self.pool.shutdown(cancel_futures=True)
        for handle in self._handles:
            handle.close()

    def fill(self, ref: TensorRef, view: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes of a tensor from an offset on, a large one with all threads.

        Raises:
            WeightsError: the file is too short or unreadable.
            OverlayError: the file changed after the overlay was made.
        """
        parts = max(1, min(THREADS, len(view) // LEAST_BYTES))
        step = -(-len(view) // parts) or 1
        pieces = [(view[at:at + step], ref.start + offset + at) for at in range(0, len(view), step)]
        if len(pieces) == 1:
            self.read(ref, *pieces[0])
        else:
            list(self.pool.map(lambda piece: self.read(ref, *piece), pieces))

    def read(self, ref: TensorRef, view: memoryview, position: int) -> None:
        """Fill a buffer from a position in the file of a tensor, in this thread.

        One `readinto` may give less than asked for (2 GB at most on some systems).

        Raises:
            WeightsError: the file is too short or unreadable.
            OverlayError: the file changed after the overlay was made.
        """
        handle, done = self._open(ref), 0
        while done < len(view):
            try:
                handle.seek(position + done)
                count = handle.readinto(view[done:])
            except OSError as error:
                raise WeightsError(f"{ref.path} cannot be read ({error.strerror or error})", "a readable disk",
                                   "Check the disk, then download the file again.") from error
            if not count:
                raise WeightsError(f"{ref.path} ended while reading bytes {position} to {position + len(view)}",
                                   "the complete file", "Download the file again, and make the overlay again.")
            done += count

    def _open(self, ref: TensorRef) -> FileIO:
        """This thread's handle of the file; each is checked, since the path may lead to a new file."""
        handles: dict[Path, FileIO] = self._mine.__dict__.setdefault("handles", {})
        if ref.path not in handles:
            try:
                handle = FileIO(ref.path)
            except OSError as error:
                raise WeightsError(f"{ref.path} cannot be read ({error.strerror or error})", "the weight file",
                                   "Put the file back, or make the overlay again with the new path.") from error
            self._handles.append(handle)
            if ref.source is not None:
                ref.source.check_stat(os.fstat(handle.fileno()))
            handles[ref.path] = handle
        return handles[ref.path]
