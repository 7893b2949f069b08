"""The run of an export: which files a folder has already, whether the rest fits, one file after the other."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atomic import is_leftover, sweep_of, write_whole
from ...errors import ExportError
from ...locks import SOFT, Busy
from ...locks import locked as locked_file
from .copy import FileWriter, forget_journal
from .files import OutputFile
from .sources import Sources, cannot_write, copied_bytes

FORMAT = "ltx23-export/1"
MARKER, LOCK = "ltx23-export.json", ".ltx23-export.lock"  # in the folder of an export
_OTHER_FOLDER = "Give an empty folder or a new one."


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export.

    Args:
        path: of the file.
        size: bytes.
        sha256: of the file as it was read back from the disk; None if that was not asked for.
        reused: it was complete from an earlier run.
    """

    path: Path
    size: int
    sha256: str | None
    reused: bool


class Job:
    """One run: what is to be written, and what the folder already has.

    Args:
        root: the folder.
        files: of the export.
        what: which export this is, for the marker.
        verify: compare every file with its sources.
    """

    def __init__(self, root: Path, files: list[OutputFile], what: dict[str, str], verify: bool) -> None:
        """Look at nothing yet."""
        self.root, self.files, self.verify = root, files, verify
        plan = hashlib.sha256("".join(file.fingerprint for file in files).encode()).hexdigest()
        self.marker: dict[str, Any] = {"format": FORMAT, **what, "plan": plan, "files": {}}

    def refuse_sources(self) -> None:
        """Never replace a file that the export reads from."""
        sources = set()
        for file in self.files:
            sources |= {os.path.realpath(part.source.path) for part in file.ranges}
        for file in self.files:
            if os.path.realpath(self.root / file.name) in sources:
                raise ExportError(f"{self.root / file.name} is a source of the overlay", "a folder without "
                                                                                         "sources",
                                  _OTHER_FOLDER)

    def read_marker(self) -> None:
        """Take over what an earlier run has completed; refuse a folder with anything else in it."""
        path = self.root / MARKER
        try:
            names = set()
            if self.root.exists():
                names = set(os.listdir(self.root))
            stored = None
            if MARKER in names:
                stored = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise cannot_write(self.root, error) from error
        except ValueError:
            stored = None
        others = {name for name in names if name not in (LOCK, LOCK + SOFT) and not is_leftover(name, MARKER)}
        if stored is None and others:
            raise ExportError(f"{self.root} is not empty ({min(others)})",
                              "an empty folder, or an export of the same overlay to be "
                              "completed", _OTHER_FOLDER)
        if stored is not None:
            if not isinstance(stored, dict) or {**stored, "files": {}} != {**self.marker, "files": {}}:
                raise ExportError(f"{self.root} holds another export", "one of the same overlay with the "
                                                                       "same settings",
                                  _OTHER_FOLDER)
            self.marker["files"] = dict(stored["files"])

    def complete(self, file: OutputFile) -> dict[str, Any] | None:
        """The marker's entry of a file that needs no more work."""
        entry = self.marker["files"].get(file.name)
        with contextlib.suppress(OSError):
            stat = (self.root / file.name).stat()
            if entry and [stat.st_size, stat.st_mtime_ns] == entry["stat"] and (entry["sha256"] or not self.verify):
                return entry
        return None

    def check_space(self) -> None:
        """Refuse before the first byte if the files cannot fit."""
        needed = 0
        for file in self.files:
            if not self.complete(file):
                needed += file.size - FileWriter(self.root, file, Sources()).done
        parent = self.root
        while not parent.exists():
            parent = parent.parent
        free = shutil.disk_usage(parent).free
        if needed > free and sum(copied_bytes(file, parent) for file in self.files) > free:
            raise ExportError(f"{parent} has {free / 1e9:.1f} GB free", f"{needed / 1e9:.1f} GB",
                              "Free some space, or export to a folder on another disk.")

    def run(self, sources: Sources, check: Callable[[], None],
            progress: Callable[[int, int], None]) -> tuple[ExportedFile, ...]:
        """Write what is missing."""
        done, total = 0, sum(file.size for file in self.files) * (1 + self.verify)

        def step(count: int) -> None:
            nonlocal done
            check()
            done += count
            progress(done, total)

        written = []
        self._save_marker()
        for file in self.files:
            entry = self.complete(file)
            if reused := entry is not None:
                with contextlib.suppress(OSError):  # a run may have been killed just after it gave the file its name
                    forget_journal(self.root / file.name)
                step(file.size * (1 + self.verify))
            else:
                entry = self._write(FileWriter(self.root, file, sources, step))
            written.append(ExportedFile(self.root / file.name, file.size, entry["sha256"], reused))
        sweep_of(self.root / MARKER)
        return tuple(written)

    def _write(self, writer: FileWriter) -> dict[str, Any]:
        writer.step(writer.done)
        writer.copy()
        digest = None
        if self.verify:
            digest = writer.compare()
        stat = writer.partial.stat()
        entry = {"stat": [stat.st_size, stat.st_mtime_ns], "sha256": digest}
        self.marker["files"][writer.file.name] = entry
        self._save_marker()  # first: a name without an entry would be written again
        writer.finish()
        return entry

    def _save_marker(self) -> None:
        try:
            write_whole(self.root / MARKER, json.dumps(self.marker, indent=1))
        except OSError as error:
            raise cannot_write(self.root / MARKER, error) from error


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One export at a time in a folder, which is made."""
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked_file(root / LOCK))
        except Busy as error:
            raise ExportError(f"another process is exporting to {root}", "one export at a time",
                              f"Wait for it, give another folder, or delete {error.path} if there is none.") from error
        except OSError as error:
            raise cannot_write(root, error) from error
        yield
