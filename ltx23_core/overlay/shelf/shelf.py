"""What lies in a set of model folders: every weight file and model folder with its identity, remembered on disk."""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..bytes.endings import PICKLES, UNFINISHED, WEIGHTS, shard_of
from .identify import identify, remembered
from .identify_folder import is_model_folder, is_repository, snapshots_of
from .identity import Identity
from .remembered import Memory
from .tree import Entry, Tree

log = logging.getLogger("ltx23")
SHOW_SECONDS, SAVE_SECONDS = 0.2, 5.0  # how often a long first look shows, and saves, what it has
LISTED = (*WEIGHTS, *PICKLES, *UNFINISHED)
MAX_DEPTH = 8
MAX_ENTRIES = 20_000  # of one listing; a folder with more is no model folder but an accident
# Names of files that belong to the model folder they are in and are not listed beside it.
_OF_FOLDER = ("model", "diffusion_pytorch_model", "pytorch_model")
UNREAD, NOT_YET = "unread", "not looked at yet: press R in a moment"
FAULT, REPORT_IT = "fault", "Report it with the log; until then take the file out of the model folders or ignore it."

Roots = Sequence[tuple[str, Path]]


@dataclass(frozen=True)
class Item:
    """One file or model folder.

    Args:
        folder: key of the model folder ("checkpoints").
        name: path relative to that folder, with forward slashes.
        identity: what it is.
    """

    folder: str
    name: str
    identity: Identity

    @property
    def place(self) -> str:
        """For people: folder and name."""
        return f"models/{self.folder}/{self.name}"

    def is_at(self, folder: str, name: str) -> bool:
        """Whether it lies there and is no fault, which may have passed."""
        return (self.folder, self.name) == (folder, name) and self.identity.kind != FAULT


def walk(root: Path, tree: Tree | None = None) -> Iterator[str]:
    """Weight files and model folders below a folder, relative to it. Follows links, but never in circles.

    Args:
        root: the folder.
        tree: listings that were just made, else they are made here.
    """
    yield from (place.name for place in _Walk(tree or Tree()).visit(root, "", 0, inside=False))


class Place(NamedTuple):
    """Where something was found: its name below the root, its folder, and its own name there."""

    name: str
    folder: Path
    entry: Entry


class _Walk:
    """One walk through one root."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._seen: set[tuple[int, int]] = set()
        self._count = 0

    def visit(self, folder: Path, prefix: str, depth: int, inside: bool) -> Iterator[Place]:
        """Everything below a folder.

        Args:
            folder: to look into.
            prefix: of the names.
            depth: below the root.
            inside: whether it belongs to a model folder.
        """
        listing = self._tree.listing(folder)
        if listing is None or listing.identity in self._seen or depth > MAX_DEPTH:
            return
        self._seen.add(listing.identity)
        for entry in listing.entries.values():
            self._count += 1
            if self._count > MAX_ENTRIES or entry.name.startswith("."):
                continue
            if entry.is_folder:
                yield from self._folder(folder / entry.name, prefix + entry.name, depth, inside, folder, entry)
            elif _is_listed(entry.name, inside):
                yield Place(prefix + entry.name, folder, entry)

    def _folder(self, path: Path, name: str, depth: int, inside: bool, parent: Path, entry: Entry) -> Iterator[Place]:
        listing = self._tree.listing(path)
        if listing is None or (inside and listing.has_file("config.json")):
            return  # the latter is a component of the pipeline
        if is_model_folder(listing):
            yield Place(name, parent, entry)
            yield from self.visit(path, name + "/", depth + 1, inside=True)
        elif is_repository(entry.name, listing):
            yield from self._repository(path, name)
        else:
            yield from self.visit(path, name + "/", depth + 1, inside=False)

    def _repository(self, path: Path, name: str) -> Iterator[Place]:
        """A repository of the hub's cache as a model folder, or the files of its snapshots."""
        for snapshot in sorted(snapshots_of(path, self._tree)):
            below = f"{name}/snapshots/{snapshot.name}"
            listing = self._tree.listing(snapshot)
            if listing is not None and is_model_folder(listing):
                yield Place(below, snapshot.parent, Entry(snapshot.name, True, False, 0))
            else:
                yield from _Walk(self._tree).visit(snapshot, below + "/", 0, inside=False)


def _is_listed(name: str, inside: bool) -> bool:
    """Whether a file stands for itself: it has a weight file's ending, and is no part of its model folder."""
    if not name.lower().endswith(LISTED) or (inside and name.startswith(_OF_FOLDER)):
        return False
    shard = shard_of(name)
    return shard is None or shard.number == 1


def _fault(path: Path, error: Exception) -> Identity:
    """A file or folder at which this library fails: the others are listed all the same."""
    log.exception("%s could not be looked at", path)
    why = f"{type(error).__name__}: {error}"
    return Identity(path, FAULT, f"could not be looked at ({why})", fix=REPORT_IT)


def _real_path(place: Place, folders: dict[Path, str]) -> str:
    """Where a file really is; a folder is asked only once."""
    folder = folders.get(place.folder)
    if folder is None:
        folder = folders[place.folder] = os.path.realpath(place.folder)
    path = os.path.join(folder, place.entry.name)
    if place.entry.is_link:
        return os.path.realpath(path)
    return path


class Shelf:
    """The model folders of one installation: one snapshot for everybody who asks.

    All that touches a disk happens in one thread, so that a slow one holds up nobody longer than he wants to wait. A
    second look costs one question a folder (`tree`), and what was read is remembered on disk.
    """

    def __init__(self, memory: Path | None = None) -> None:
        """Look at nothing yet."""
        self.memory = Memory(memory)
        self._tree = Tree()
        self._turn = threading.Condition()
        self._roots: Roots = ()
        self._asked = self._done = 0
        self._reader: threading.Thread | None = None
        self._items: list[Item] = []
        self._seen_roots: Roots = ()
        self._kept: dict[Path, tuple[object, Item]] = {}  # path -> what its identity depends on, and the item

    def look(self, roots: Roots, wait: float | None = None) -> list[Item]:
        """Everything that is there, each real file once; the same list as before while nothing has changed.

        Args:
            roots: (key, folder); the first place where a file is found counts.
            wait: seconds to wait for the thread; what it has not read by then has the kind "unread", or is missing
                where not even its folder was listed. None waits for all.
        """
        with self._turn:
            self._roots = [(key, Path(os.path.abspath(root))) for key, root in roots]
            self._asked += 1
            mine = self._asked
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, name="ltx23-identify", daemon=True)
                self._reader.start()
            self._turn.wait_for(lambda: self._done >= mine, wait)
            return self._items

    def known(self) -> list[Item]:
        """What the last look found; touches no folder."""
        return self._items

    def _read(self) -> None:
        """Look as often as somebody has asked since the last look began."""
        while True:
            with self._turn:
                asked, roots = self._asked, self._roots
                if asked == self._done:
                    self._reader = None
                    return
            try:
                self._look(roots)
            except Exception:
                log.exception("the model folders could not be looked at")
            with self._turn:
                self._done = asked
                self._turn.notify_all()

    def _look(self, roots: Roots) -> None:
        """Bring the snapshot up to date."""
        self._tree.begin()
        for _, root in roots:  # one that was not there may be there now
            self._tree.listing(root)
        unchanged = self._tree.is_unchanged()  # asks every folder
        if unchanged and roots == self._seen_roots:
            return
        with self._tree.only_what_is_used():
            places = [(key, place, self._state(place)) for key, place in self._find(roots)]
            self._name(places)
        self._seen_roots = roots
        self.memory.save()

    def _find(self, roots: Roots) -> list[tuple[str, Place]]:
        """Every real file and model folder once, with the key of its root."""
        found: dict[str, tuple[str, Place]] = {}
        real: dict[Path, str] = {}
        for key, root in roots:
            try:
                for place in _Walk(self._tree).visit(root, "", 0, inside=False):
                    found.setdefault(_real_path(place, real), (key, place))
            except Exception:  # ours; it must not hide the other folders, nor what was found before
                log.exception("%s could not be looked through", root)
        return list(found.values())

    def _state(self, place: Place) -> object:
        """What the identity of a plain file depends on; a new object for folders, which are always described anew."""
        entry = place.entry
        return object() if entry.is_folder else (entry.info, id(self._tree.listing(place.folder)))

    def _name(self, places: list[tuple[str, Place, object]]) -> None:
        """Describe every place: those that are known at once, then those that must be read."""
        items: list[Item] = []
        kept: dict[Path, tuple[object, Item]] = {}
        unread: list[int] = []
        for key, place, state in places:
            path = place.folder / place.entry.name
            old = self._kept.get(path)
            if old is not None and old[0] == state and old[1].is_at(key, place.name):
                item = old[1]
            else:
                item = Item(key, place.name, self._identity(path, len(items), unread))
            items.append(item)
            kept[path] = state, item
        self._items = items
        if unread:
            self._items = self._read_files(items, unread)
            for item, (path, (state, _)) in zip(self._items, kept.items(), strict=True):
                kept[path] = state, item
        self._kept = kept

    def _identity(self, path: Path, number: int, unread: list[int]) -> Identity:
        try:
            found = remembered(path, self.memory, self._tree)
        except Exception as error:  # ours; it must not hide the other files
            return _fault(path, error)
        if found is not None:
            return found
        unread.append(number)
        return Identity(path, UNREAD, NOT_YET)

    def _read_file(self, item: Item) -> Item:
        """The same item with what its header says."""
        path = item.identity.path
        try:
            identity = identify(path, self.memory, self._tree)
        except Exception as error:  # ours; it must not hide the other files
            identity = _fault(path, error)
        return Item(item.folder, item.name, identity)

    def _read_files(self, items: list[Item], unread: list[int]) -> list[Item]:
        """Read the headers of these; whoever does not wait sees what is done so far."""
        made, shown, saved = list(items), time.monotonic(), time.monotonic()
        for number in unread:
            made[number] = self._read_file(made[number])
            now = time.monotonic()
            if now - shown > SHOW_SECONDS:
                self._items, shown = list(made), now
            if now - saved > SAVE_SECONDS:  # what was read of a large, slow folder survives an early end
                self.memory.save()
                saved = now
        return made
