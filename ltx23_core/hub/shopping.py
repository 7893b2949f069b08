"""Fetching what is missing in one call: entries of the catalogue, their sizes, the room, the files in their folders."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Entry
from .fetch import GB, Fetched, Progress, fetch, present, room_on
from .remote import Hub
from .request import Request

_PAGE = "https://huggingface.co/"


@dataclass(frozen=True)
class Wanted:
    """One file, or folder, that is to be fetched.

    Args:
        entry: of the catalogue.
        request: the same, for `fetch`.
        root: the models folder it goes to.
        there: where it lies already, None where it does not.
    """

    entry: Entry
    request: Request
    root: Path
    there: Path | None

    @property
    def size(self) -> int:
        """Bytes as published; 0 where that is not known."""
        return int((self.entry.size or 0) * GB)

    @property
    def address(self) -> str:
        """The page to read about it, to accept its terms, and to download it by hand."""
        page = f"{_PAGE}{self.entry.repo}"
        if not self.entry.path:
            return page
        return f"{page}/blob/main/{self.entry.path}"


@dataclass(frozen=True)
class Basket:
    """What is to be fetched, and whether it fits; no connection is needed to know.

    Args:
        files: each once.
        free: bytes on the fullest disk of those they go to.
        reserved: how many of them stay free there.
    """

    files: tuple[Wanted, ...]
    free: int
    reserved: int

    @property
    def missing(self) -> list[Wanted]:
        """What has to be loaded."""
        return [wanted for wanted in self.files if wanted.there is None]

    @property
    def size(self) -> int:
        """Bytes to load, as published."""
        return sum(wanted.size for wanted in self.missing)

    @property
    def fits(self) -> bool:
        """Whether there is room for all on one disk."""
        return self.size + self.reserved <= self.free


def basket_of(entries: Iterable[Entry], roots: Callable[[str], Sequence[Path]]) -> Basket:
    """What to fetch for some entries; a file that several components need is in it once.

    Args:
        entries: of the catalogue.
        roots: kind of models ("checkpoints") -> its folders, the preferred one first.
    """
    files, rooms = [], []
    for entry in dict.fromkeys(entries):
        wanted = _wanted(entry, roots(entry.folder))
        files.append(wanted)
        if wanted.there is None:
            rooms.append(room_on(wanted.root))
    free, reserved = min(rooms, key=lambda room: room[0] - room[1], default=(0, 0))
    return Basket(tuple(files), free, reserved)


def _wanted(entry: Entry, folders: Sequence[Path]) -> Wanted:
    request = Request(entry.repo, entry.path, "main", entry.folder, entry.instead)
    for root in folders:
        there = present(request, root)
        if there is not None:
            return Wanted(entry, request, root, there)
    return Wanted(entry, request, folders[0], None)


def get(basket: Basket, on_progress: Progress = lambda *_: None, hub: Hub | None = None) -> list[Fetched]:
    """Fetch all that is missing; what has arrived of a stopped run is continued.

    Raises:
        HubError, RequestError: as of `fetch`.
    """
    return fetch([(wanted.request, wanted.root) for wanted in basket.missing], on_progress, hub)
