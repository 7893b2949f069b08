"""What lies in a set of model folders: every weight file and model folder with its identity, remembered on disk."""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..names.kinds import UNFINISHED
from .identify import SHARD, Identity, identify, remembered
from .identify_folder import WEIGHTS, is_model_folder
from .remembered import Memory

LISTED = (*WEIGHTS, ".gguf", ".pt", ".pth", ".ckpt", ".bin", *UNFINISHED)
MAX_DEPTH = 8
MAX_ENTRIES = 20_000  # of one listing; a folder with more is no model folder but an accident
# Names of files that belong to the model folder they are in and are not listed beside it.
_OF_FOLDER = ("model", "diffusion_pytorch_model", "pytorch_model")
UNREAD, NOT_YET = "unread", "not looked at yet: press R in a moment"

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


def walk(root: Path) -> Iterator[str]:
    """Weight files and model folders below a folder, relative to it. Follows links, but never in circles."""
    seen: set[tuple[int, int]] = set()
    count = 0

    def visit(folder: Path, prefix: str, depth: int, inside: bool) -> Iterator[str]:
        nonlocal count
        try:
            info = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return
        if (info.st_dev, info.st_ino) in seen or depth > MAX_DEPTH:
            return
        seen.add((info.st_dev, info.st_ino))
        for entry in entries:
            count += 1
            if count > MAX_ENTRIES or entry.name.startswith("."):
                continue
            name = prefix + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that points at itself
                is_folder = False
            if not is_folder:
                shard = SHARD.fullmatch(entry.name)
                if entry.name.lower().endswith(LISTED) and not (inside and entry.name.startswith(_OF_FOLDER)) and (
                        shard is None or int(shard["number"]) == 1):
                    yield name
            elif inside and os.path.isfile(os.path.join(entry.path, "config.json")):
                continue  # a component of the pipeline
            elif is_model_folder(Path(entry.path)):
                yield name
                yield from visit(Path(entry.path), name + "/", depth + 1, True)
            elif not (entry.name.startswith("models--") and os.path.isdir(os.path.join(entry.path, "snapshots"))):
                yield from visit(Path(entry.path), name + "/", depth + 1, False)
            else:
                yield from _repository(Path(entry.path), name)

    yield from visit(root, "", 0, False)


def _repository(path: Path, name: str) -> Iterator[str]:
    """A repository of the hub's cache as a model folder, or the files of its newest snapshots."""
    for snapshot in sorted((path / "snapshots").iterdir()):
        if is_model_folder(snapshot):
            yield f"{name}/snapshots/{snapshot.name}"
        elif snapshot.is_dir():
            yield from (f"{name}/snapshots/{snapshot.name}/{file}" for file in walk(snapshot))


class Shelf:
    """The model folders of one installation.

    Reading the headers of new files happens in a thread, so that a slow disk holds up nobody longer than he wants
    to wait; what has been read is remembered on disk.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self.memory = Memory(memory)
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None

    def look(self, roots: Roots, wait: float | None = None) -> list[Item]:
        """Everything that is there, each real file once.

        Args:
            roots: (key, folder); the first place where a file is found counts.
            wait: seconds to wait for files that were never read; those not read by then have the kind "unread".
                None waits for all.
        """
        places = self._places(roots)
        items = self._items(places)
        if not any(item.identity.kind == UNREAD for item in items):
            return items
        with self._lock:
            if self._reader is None or not self._reader.is_alive():
                self._reader = threading.Thread(target=self._read, args=([path for _, _, path in places],),
                                                name="ltx23-identify", daemon=True)
                self._reader.start()
            reader = self._reader
        reader.join(wait)
        if wait is None:  # the thread may have begun before the newest file was there
            self._read([path for _, _, path in places])
        return self._items(places)

    def _items(self, places: list[tuple[str, str, Path]]) -> list[Item]:
        return [Item(folder, name, remembered(path, self.memory) or Identity(path, UNREAD, NOT_YET))
                for folder, name, path in places]

    def _places(self, roots: Roots) -> list[tuple[str, str, Path]]:
        found: dict[str, tuple[str, str, Path]] = {}
        for key, root in roots:
            for name in walk(root):
                found.setdefault(os.path.realpath(root / name), (key, name, root / name))
        return list(found.values())

    def _read(self, paths: list[Path]) -> None:
        last = time.monotonic()
        for path in paths:
            identify(path, self.memory)
            if time.monotonic() - last > 5:  # what was read of a large, slow folder survives an early end
                self.memory.save()
                last = time.monotonic()
        self.memory.save()
