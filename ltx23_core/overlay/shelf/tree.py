"""Listings of folders, each made by one `scandir` and kept while the folder's time says that nothing came or went."""
from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import NamedTuple

from ..bytes.endings import UNFINISHED

# A folder changed less than this before it was listed is listed again: its time may not show the next change.
RACY_NS = 100_000_000
RECHECKED = 24  # files whose size and time are asked again at each look: the newest, and the others in turn
Key = tuple[int, int, int]


class Stat(NamedTuple):
    """What is asked of a file: bytes, time of the last change, number (Windows' listings know none), and kind."""

    size: int
    time: int
    inode: int
    mode: int

    @classmethod
    def of(cls, info: os.stat_result) -> Stat:
        """The part of a stat that counts here; a reading changes nothing of it."""
        return cls(info.st_size, info.st_mtime_ns, 0 if os.name == "nt" else info.st_ino, info.st_mode)

    @property
    def key(self) -> Key:
        """Stands for the content of the file."""
        return self.size, self.time, self.inode


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

    Attributes:
        name: of the file or folder.
        is_folder: whether it is a folder, links followed.
        is_link: whether it is a symbolic link.
        inode: of the name itself.
        info: size and times of a file, links followed; None for folders, and for links to nothing.
    """

    name: str
    is_folder: bool
    is_link: bool
    inode: int
    info: Stat | None = None


@dataclass
class Listing:
    """What one folder holds.

    Attributes:
        entries: name -> entry, in order of names.
        time: of the folder's last change.
        identity: device and number of the folder, which tell circles of links.
        seen: when it was listed, nanoseconds.
        marks: of `marks_in`.
    """

    entries: dict[str, Entry]
    time: int
    identity: tuple[int, int]
    seen: int
    marks: dict[str, str] = field(default_factory=dict)

    def has_file(self, name: str) -> bool:
        """Whether a file of this name is there."""
        entry = self.entries.get(name)
        return entry is not None and not entry.is_folder and entry.info is not None


def marks_in(names: Iterable[str]) -> dict[str, str]:
    """Names of files in lower case -> the mark that one of them is still being downloaded."""
    marks = {}
    for name in names:
        lower = name.lower()
        if lower.endswith(UNFINISHED):
            marks[lower.rpartition(".")[0]] = name
    return marks


def mark_of(name: str, marks: Mapping[str, str]) -> str:
    """Name of the mark of an unfinished download beside a file, "" where there is none.

    Marks are named after the file (``x.safetensors.aria2``), after its stem (``x.part``), or with a random part
    between (Firefox: ``x.A1b2C3.safetensors.part``).
    """
    if not marks:
        return ""
    lower = name.lower()
    stem, _, ending = lower.rpartition(".")
    plain = marks.get(lower) or marks.get(stem)
    if plain:
        return plain
    between = re.compile(re.escape(stem) + r"\.[^.]+\." + re.escape(ending))
    for marked, mark in marks.items():
        if between.fullmatch(marked):
            return mark
    return ""


class Opened:
    """A file that is read in pieces, opened with a single call: `open` asks twice, which counts on a slow disk.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        """Open a file whose kind is known: a pipe would wait."""
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def seek(self, offset: int) -> None:
        """Go on there."""
        os.lseek(self._file, offset, os.SEEK_SET)

    def read(self, count: int) -> bytes:
        """So many bytes, fewer where the file ends."""
        parts, left = [], count
        while left > 0 and (part := os.read(self._file, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class Tree:
    """Folders as they were when they were last looked at. Not safe to use from several threads at once."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._known: dict[str, Listing] = {}
        self._fresh: set[str] = set()
        self._used: set[str] | None = None
        self._files: list[tuple[str, str, int]] = []
        self._newest: list[tuple[str, str]] = []
        self._turn = 0
        self.changed = True  # whether anything differs since `begin`

    def begin(self) -> None:
        """A new look: every folder is asked once more whether it has changed."""
        self._fresh.clear()
        self.changed = not self._known

    def is_unchanged(self) -> bool:
        """Whether no folder that is known, and none of some files, has changed since `begin`."""
        for path in list(self._known):
            self.listing(path)
        self._recheck()  # also where a folder changed: a file that was growing at the last look may be whole now
        return not self.changed

    @contextmanager
    def only_what_is_used(self) -> Iterator[None]:
        """Forget the folders that nobody asks for within this context."""
        self._used = set()
        yield
        self._known = {path: listing for path, listing in self._known.items() if path in self._used}
        self._used = None
        self._files = []
        for path, listing in self._known.items():
            for entry in listing.entries.values():
                if entry.info is not None:
                    self._files.append((path, entry.name, entry.info.time))
        newest = nlargest(RECHECKED // 2, self._files, key=lambda each: each[2])
        self._newest = [each[:2] for each in newest]

    def listing(self, folder: Path | str) -> Listing | None:
        """What a folder holds; None where it cannot be read or is none."""
        path = os.fspath(folder)
        if self._used is not None:
            self._used.add(path)
        if path in self._fresh:
            return self._known.get(path)
        self._fresh.add(path)
        known = self._known.get(path)
        try:
            info = os.stat(path)
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectoryError(path)
            if known is None or known.time != info.st_mtime_ns or known.seen - known.time < RACY_NS:
                self._keep(path, _list(path, info, known))
        except (OSError, ValueError):
            if self._known.pop(path, None) is not None:
                self.changed = True
        return self._known.get(path)

    def entry(self, path: Path) -> Entry | None:
        """A file or folder by its own path: of its folder's listing if that was made, else asked for alone.

        Raises:
            OSError, ValueError: as of `os.stat`, except that what is not there is None.
        """
        listing = self._listed(path.parent)
        if listing is not None:
            return listing.entries.get(path.name)
        try:
            info = os.stat(path)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(info.st_mode):
            return Entry(path.name, True, False, info.st_ino)
        return Entry(path.name, False, False, info.st_ino, Stat.of(info))

    def _listed(self, folder: Path) -> Listing | None:
        """A listing that this look has made already."""
        path = os.fspath(folder)
        if path not in self._fresh:
            return None
        return self._known.get(path)

    def has_file(self, path: Path) -> bool:
        """Whether this is a file."""
        listing = self._listed(path.parent)
        if listing is None:
            return path.is_file()
        return listing.has_file(path.name)

    def mark_beside(self, path: Path) -> str:
        """Name of the mark of an unfinished download beside a file, "" where there is none."""
        listing = self._listed(path.parent)
        if listing is not None:
            return mark_of(path.name, listing.marks)
        try:
            return mark_of(path.name, marks_in(os.listdir(path.parent)))
        except OSError:
            return ""

    def _keep(self, path: str, made: Listing) -> None:
        known = self._known.get(path)
        if known is None or known.entries != made.entries:
            self.changed = True
            self._known[path] = made
        else:
            known.time, known.seen = made.time, made.seen

    def _recheck(self) -> None:
        """Ask some files for size and time again: a file that is written in place does not change its folder."""
        start = self._turn % max(len(self._files), 1)
        self._turn = start + RECHECKED // 2
        others = (each[:2] for each in self._files[start:self._turn])
        for path, name in dict.fromkeys([*self._newest, *others]):
            self.check(path, name)

    def check(self, folder: Path | str, name: str) -> None:
        """Ask one file for its size and time again."""
        path = os.fspath(folder)
        listing = self._known.get(path)
        if listing is None or name not in listing.entries:
            return
        old = listing.entries[name]
        new = Entry(name, old.is_folder, old.is_link, old.inode, _info(os.path.join(path, name)))
        if new.info != old.info:
            listing.entries[name] = new
            self.changed = True


def _info(path: str) -> Stat | None:
    try:
        return Stat.of(os.stat(path))
    except OSError:
        return None


def _list(path: str, info: os.stat_result, known: Listing | None) -> Listing:
    """One scandir; only names that are new are asked for their size and time."""
    seen = time.time_ns()
    old = known.entries if known is not None else {}
    entries: dict[str, Entry] = {}
    with os.scandir(path) as found:
        for each in found:
            before = old.get(each.name)
            if before is None or not _is_same(each, before):
                before = _entry(each)
            entries[each.name] = before
    if list(entries) != list(old):
        entries = dict(sorted(entries.items()))
    return Listing(entries, info.st_mtime_ns, (info.st_dev, info.st_ino), seen, marks_in(entries))


def _is_same(found: os.DirEntry[str], before: Entry) -> bool:
    """Whether a plain file was there before; folders and links may be others without a new number."""
    return found.inode() == before.inode and not before.is_folder and not before.is_link


def _entry(found: os.DirEntry[str]) -> Entry:
    inode, is_link = found.inode(), found.is_symlink()
    try:
        is_folder = found.is_dir()
        info = None if is_folder else Stat.of(found.stat())
    except OSError:  # a link to nothing, or to itself
        return Entry(found.name, False, is_link, inode)
    return Entry(found.name, is_folder, is_link, inode, info)
