"""From requests to files in their places: plan, room on the disk, then link or download one after the other."""
from __future__ import annotations

import errno
import glob
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import RequestError
from ..locks import Busy, locked
from .errors import HubError
from .partial import download, partial_path
from .remote import CHUNK, Hub, RemoteFile, files_below, is_complete
from .request import Request
from .there import file_below, folder_below, is_real

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, file; may raise to stop
GB = 10**9
# What stays free on a disk: the computer needs room to work. Whichever is less.
RESERVED_SHARE, RESERVED = 0.10, 20 * GB

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST,
              errno.EISDIR, errno.ENAMETOOLONG, errno.EIO, errno.EFBIG)
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
        if self.cached or self.is_there:
            return 0
        return self.file.size

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
        counts = Counter(self.ways)
        each = list(counts)
        if len(self.ways) > 1:
            each = [f"{count} {way}" for way, count in counts.items()]
        return f"{self.request.name}: {size_text(self.size)}, {', '.join(each)} -> {self.path}"


@dataclass(frozen=True)
class _Plan:
    """A request, the folder that it goes to, and its files."""

    request: Request
    root: Path | None
    items: list[Item]

    @property
    def path(self) -> Path:
        """Where the request as a whole lies in the end."""
        first = self.items[0]
        if not self.request.is_folder:
            return first.target or first.cached
        if self.root is not None:
            return self.request.target(self.root)
        return first.cached.parents[first.file.path.removeprefix(self.request.path).count("/")]


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
    plans, items = [], []
    for request, named in dict.fromkeys(wanted):
        root = _settled(request, named)
        plans.append(_Plan(request, root, plan(hub, request, root)))
        items += plans[-1].items
    _check_targets(items)
    _check_space(items)
    total, done = sum(item.to_load for item in items), 0

    def tick(name: str, bytes_: int) -> None:
        nonlocal done
        done += bytes_
        on_progress(done, total, name)

    return [_carried_out(hub, each, partial(tick, each.request.name)) for each in plans]


def _carried_out(hub: Hub, plan: _Plan, tick: Callable[[int], None]) -> Fetched:
    ways, size = [], 0
    with hub.explained(plan.request, plan.root):
        for item in plan.items:
            ways.append(_provide(hub, item, tick))
            size += item.file.size
    return Fetched(plan.request, plan.path, size, tuple(ways))


def _settled(request: Request, root: Path | None) -> Path | None:
    """The folder that a repository goes to: where it lies already, in a sub-folder, else the one that was named."""
    if root is None or not request.is_folder:
        return root
    found = folder_below(root, request.name)
    if found is None:
        return root
    return found.parent


def plan(hub: Hub, request: Request, root: Path | None) -> list[Item]:
    """Find out what there is, here and at the hub. Where the hub refuses or is away, the cache serves alone."""
    items = []
    try:
        for file in hub.files(request, root):
            items.append(Item(request, file, _target(request, root, file), hub.cached(request, file)))
    except HubError:
        items = _unasked(hub, request, root)
        if not items:
            raise
    return items


def _unasked(hub: Hub, request: Request, root: Path | None) -> list[Item]:
    """The files of a request that the hub could not be asked about, taken as they are; none where some lack."""
    items = []
    cached = hub.cached_unasked(request)
    for name, path in (cached or _there(request, root)).items():
        file = RemoteFile(name, "", path.stat().st_size, commit="", etag="")
        items.append(Item(request, file, _target(request, root, file), cached.get(name)))
    return items


def _there(request: Request, root: Path | None) -> dict[str, Path]:
    """What lies in the request's folder, by paths in the repository; empty unless it is complete."""
    if root is None:
        return {}
    path = present(request, root)
    if path is None:
        return {}
    if request.is_folder:
        return files_below(path, request.path)
    return {request.path: path}


def _target(request: Request, root: Path | None, file: RemoteFile) -> Path | None:
    """The place of a file: where an equal one lies in a sub-folder, else where the request puts it."""
    if root is None:
        return None
    usual = request.target(root, file.path)
    if request.is_folder or is_real(usual):
        return usual
    return file_below(root, request.name, file.size) or usual


def present(request: Request, root: Path) -> Path | None:
    """The file or complete folder of a request if it lies in `root` or below; nothing is asked of the hub."""
    if not request.is_folder:
        return file_below(root, request.name)
    path = folder_below(root, request.name)
    if path is None or not is_complete(path):
        return None
    return path


def size_text(size: float) -> str:
    """Bytes for people."""
    if size >= GB / 10:
        return f"{size / GB:.1f} GB"
    return f"{size / 10**6:.1f} MB"


def _check_targets(items: Iterable[Item]) -> None:
    """Before the first byte: every file has a place, and nothing of the user is in it."""
    taken: dict[Path, Item] = {}
    for item in items:
        if item.target is None:
            if item.cached is None:
                raise RequestError(f"{item.request.name} ({size_text(item.file.size)}) is not in the Hugging "
                                   "Face cache", "a folder to download it to", "Name one: --to or --comfyui.")
            continue
        other = taken.setdefault(item.target, item)
        if other.file.etag != item.file.etag:
            raise RequestError(f"{item.request.repo} and {other.request.repo} both have a file "
                               f"{item.target.name}", "files of different names in one folder",
                               "Fetch one of them to another folder.")
        if item.is_there and item.target.stat().st_size != item.file.size:
            raise RequestError(
                f"{item.target} has {item.target.stat().st_size} bytes, the hub's file {item.file.size}",
                "no file in this place, or the same",
                "If it is a broken download, delete it; else rename it.")


def _check_space(items: Iterable[Item]) -> None:
    needed: dict[int, tuple[Path, int]] = {}
    for item in items:
        if item.to_load:
            folder = _existing(item.target)
            device = folder.stat().st_dev
            needed[device] = folder, needed.get(device, (folder, 0))[1] + _lacking(item)
    for folder, size in needed.values():
        _check_room(folder, size)


def _lacking(item: Item) -> int:
    """Bytes that an earlier run has not brought."""
    part = partial_path(item.target, item.file)
    if not part.is_file():
        return item.file.size
    return max(0, item.file.size - part.stat().st_size)


def _check_room(folder: Path, size: int) -> None:
    free, reserved = room_on(folder)
    needed = size + reserved
    if free < needed:
        raise HubError(f"the disk of {folder} has {size_text(free)} free, {size_text(size)} are to be "
                       "written",
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
        for leftover in item.target.parent.glob(f".{glob.escape(item.target.name)}.*.incomplete"):
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
        if error.errno not in UNWRITABLE:
            raise
        raise HubError(f"{target} cannot be written ({error.strerror})",
                       "a folder with room that you may write to",
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
