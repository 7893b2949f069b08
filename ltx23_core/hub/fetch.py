"""From requests to files in their places: plan, room on the disk, then link or download one after the other."""
from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from ..locks import Busy, locked
from .errors import HubError
from .partial import download, partial_path
from .remote import CHUNK, Hub, RemoteFile, files_below, is_complete
from .request import Request, parse
from .there import file_below, folder_below, is_real

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, file; may raise to stop
GB = 10**9
# What stays free on a disk: the computer needs room to work. Whichever is less.
RESERVED_SHARE, RESERVED = 0.10, 20 * GB

THERE, IN_CACHE = "already there", "in the Hugging Face cache"


@dataclass(frozen=True)
class Item:
    """One file to provide.

    Args:
        file: as the hub describes it; without url where the hub could not be asked.
        target: its place; None leaves a cached file where it is.
        cached: where the user's cache has it.
    """

    request: Request
    file: RemoteFile
    target: Path | None
    cached: Path | None

    @property
    def to_load(self) -> int:
        """Bytes that have to come from the hub, an earlier part included."""
        return 0 if self.cached or self.is_there else self.file.size

    @property
    def is_there(self) -> bool:
        """Whether the place is taken; a Git LFS pointer gives it up."""
        return self.target is not None and is_real(self.target)


@dataclass(frozen=True)
class Fetched:
    """What became of a request: the file or folder, and how each of its files came there."""

    request: Request
    path: Path
    size: int
    ways: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for the user."""
        each = ", ".join(f"{self.ways.count(way)} {way}" if len(self.ways) > 1 else way
                         for way in dict.fromkeys(self.ways))
        return f"{self.request.name}: {size_text(self.size)}, {each} -> {self.path}"


def fetch(wanted: Sequence[tuple[Request, Path | None]], on_progress: Progress = lambda *_: None,
          hub: Hub | None = None) -> list[Fetched]:
    """Provide files.

    Args:
        wanted: each request with the folder it goes to. With None a file is taken from the user's cache, in place.
        on_progress: called with bytes done, bytes of all downloads together, name of the file.
        hub: another than the user's.

    Raises:
        HubError: not there, not allowed, not reachable, wrong hash, no room.
        RequestError: a place is taken by another file, or none was named for a file that is not in the cache.
    """
    hub = hub or Hub()
    settled = [(request, _settled(request, root)) for request, root in dict.fromkeys(wanted)]
    plans = [(request, root, plan(hub, request, root)) for request, root in settled]
    items = [item for *_, items in plans for item in items]
    _check_targets(items)
    _check_space(items)
    total, done = sum(item.to_load for item in items), 0

    def tick(name: str, bytes_: int) -> None:
        nonlocal done
        done += bytes_
        on_progress(done, total, name)

    results = []
    for request, root, items in plans:
        with hub.explained(request, root):
            ways = [_provide(hub, item, lambda n, item=item: tick(item.request.name, n)) for item in items]
        results.append(Fetched(request, _place(request, root, items), sum(item.file.size for item in items),
                               tuple(ways)))
    return results


def fetch_missing(names: Iterable[str], folders: Callable[[str], Path], on_progress: Progress = lambda *_: None,
                  hub: Hub | None = None) -> list[Fetched]:
    """Provide files of the catalogue in one call: those that are there, in any sub-folder, stay as they are.

    Args:
        names: of `catalogue.ENTRIES`, or what else `request.parse` reads.
        folders: name of a folder of ComfyUI's models -> where it is.
        on_progress: as for `fetch`.
        hub: another than the user's.

    Raises:
        HubError: as `fetch`.
        RequestError: as `fetch`, or a name that is not known.
    """
    requests = [parse(name) for name in dict.fromkeys(names)]
    return fetch([(request, folders(request.folder)) for request in requests], on_progress, hub)


def _settled(request: Request, root: Path | None) -> Path | None:
    """The folder that a repository goes to: where it lies already, in a sub-folder, else the one that was named."""
    if root is None or not request.is_folder:
        return root
    found = folder_below(root, request.name)
    return root if found is None else found.parent


def plan(hub: Hub, request: Request, root: Path | None) -> list[Item]:
    """Find out what there is, here and at the hub. Where the hub refuses or is away, the cache serves alone."""
    def item(file: RemoteFile, cached: Path | None) -> Item:
        return Item(request, file, None if root is None else _target(request, root, file), cached)

    try:
        return [item(file, hub.cached(request, file)) for file in hub.files(request, root)]
    except HubError:
        if cached := hub.cached_unasked(request):
            return [item(_unasked(name, path), path) for name, path in cached.items()]
        if root is not None and (path := present(request, root)) is not None:
            files = files_below(path, request.path) if request.is_folder else {request.path: path}
            return [item(_unasked(name, path), None) for name, path in files.items()]
        raise


def _target(request: Request, root: Path, file: RemoteFile) -> Path:
    """The place of a file: where an equal one lies in a sub-folder, else where the request puts it."""
    usual = request.target(root, file.path)
    if request.is_folder or is_real(usual):
        return usual
    return file_below(root, request.name, file.size) or usual


def _unasked(name: str, path: Path) -> RemoteFile:
    """A file that the hub could not be asked about, taken as it is."""
    return RemoteFile(name, "", path.stat().st_size, "", "")


def present(request: Request, root: Path) -> Path | None:
    """The file or complete folder of a request if it lies in `root` or below; nothing is asked of the hub."""
    if not request.is_folder:
        return file_below(root, request.name)
    path = folder_below(root, request.name)
    return path if path is not None and is_complete(path) else None


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 10**6:.1f} MB"


def _place(request: Request, root: Path | None, items: Sequence[Item]) -> Path:
    first = items[0]
    if root is not None:
        return request.target(root) if request.is_folder else first.target
    return first.cached.parents[first.file.path.removeprefix(request.path).count("/")] if request.is_folder else (
        first.cached)


def _check_targets(items: Iterable[Item]) -> None:
    """Before the first byte: every file has a place, and nothing of the user is in it."""
    taken: dict[Path, Item] = {}
    for item in items:
        if item.target is None:
            if item.cached is None:
                raise RequestError(f"{item.request.name} ({size_text(item.file.size)}) is not in the Hugging Face "
                                   "cache", "a folder to download it to", "Name one: --to or --comfyui.")
            continue
        other = taken.setdefault(item.target, item)
        if other.file.etag != item.file.etag:
            raise RequestError(f"{item.request.repo} and {other.request.repo} both have a file {item.target.name}",
                               "files of different names in one folder", "Fetch one of them to another folder.")
        if item.is_there and item.target.stat().st_size != item.file.size:
            raise RequestError(
                f"{item.target} has {item.target.stat().st_size} bytes, the hub's file {item.file.size}",
                "no file in this place, or the same", "If it is a broken download, delete it; else rename it.")


def _check_space(items: Iterable[Item]) -> None:
    needed: dict[int, tuple[Path, int]] = {}
    for item in items:
        if item.to_load:
            partial = partial_path(item.target, item.file)
            have = partial.stat().st_size if partial.is_file() else 0
            folder = _existing(item.target)
            device = folder.stat().st_dev
            needed[device] = folder, needed.get(device, (folder, 0))[1] + max(0, item.file.size - have)
    for folder, size in needed.values():
        _check_room(folder, size)


def _check_room(folder: Path, size: int) -> None:
    free, reserved = room_on(folder)
    needed = size + reserved
    if free < needed:
        raise HubError(f"the disk of {folder} has {size_text(free)} free, {size_text(size)} are to be written",
                       f"{size_text(needed)} free: {size_text(reserved)} of this disk stay free",
                       f"Free {size_text(needed - free)} there, or choose a folder on another disk.")


def room_on(folder: Path) -> tuple[int, int]:
    """Bytes that are free on the disk of a folder, which need not be there yet, and how many of them stay free."""
    usage = shutil.disk_usage(_existing(folder / "x"))
    return usage.free, min(int(usage.total * RESERVED_SHARE), RESERVED)


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _provide(hub: Hub, item: Item, tick: Callable[[int], None]) -> str:
    """Put one file into its place -> how it came there."""
    if item.target is None:
        return IN_CACHE
    with _alone(item.target):
        if item.is_there:
            return THERE
        if item.cached:
            return f"{IN_CACHE}, {_link(item.cached.resolve(), item.target, tick)}"
        way = download(hub, item.file, item.target, tick)
        for leftover in item.target.parent.glob(f".{_escaped(item.target.name)}.*.incomplete"):
            leftover.unlink(missing_ok=True)  # of an older version of the file
        return way


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second process from the same file; errors of the disk in our words."""
    path = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            yield
    except Busy as error:
        raise HubError(f"another process is downloading {target}", "one at a time",
                       f"Wait for it, or delete {error.path} if there is none.") from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
                               errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO, errno.EFBIG):
            raise
        raise HubError(f"{target} cannot be written ({error.strerror})", "a folder with room that you may write to",
                       "Choose another folder, or free some room; what has arrived is kept.") from error


def _link(source: Path, target: Path, tick: Callable[[int], None]) -> str:
    """Give a cached file a second name -> how; copied only where the system cannot do that."""
    for how, make in (("hard link", os.link), ("symbolic link", os.symlink)):
        try:
            make(source, target)
        except (OSError, NotImplementedError):  # another file system, or no right to
            continue
        return how
    _check_room(target.parent, source.stat().st_size)
    temporary = target.with_name(f".{target.name}.copy.incomplete")
    try:
        with source.open("rb") as read, temporary.open("wb") as write:
            while chunk := read.read(CHUNK):
                write.write(chunk)
                tick(0)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return "copied"


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
