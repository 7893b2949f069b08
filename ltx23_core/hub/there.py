"""What lies on the disk already: in any sub-folder, and really, not as the pointer of a clone without Git LFS."""
from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

MAX_DEPTH = 4  # of sub-folders; people sort models by maker and kind
MAX_FILES = 50_000  # names looked at; more is no folder of models
# Names that hundreds of repositories give to their files: in a sub-folder they say nothing.
_GENERIC = ("model.", "model-", "diffusion_pytorch_model", "pytorch_model", "pytorch_lora_weights",
            "adapter_model")
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024  # at most, by the specification of Git LFS


def is_real(path: Path) -> bool:
    """Whether a file is there with its content; a Git LFS pointer is not."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return False
        if size > _POINTER_BYTES:
            return True
        with open(path, "rb") as file:
            return file.read(len(_POINTER)) != _POINTER
    except OSError:
        return False


def file_below(root: Path, name: str, size: int | None = None) -> Path | None:
    """A real file of this name in a folder or below it, nearest first.

    Args:
        root: the folder; it may not exist.
        name: of the file.
        size: that it must have, where that is known.
    """
    places = _walk(root)
    if name.lower().startswith(_GENERIC):
        places = itertools.islice(places, 1)  # the folder itself
    for folder, _, files in places:
        path = folder / name
        if name in files and is_real(path) and (size is None or path.stat().st_size == size):
            return path
    return None


def folder_below(root: Path, name: str) -> Path | None:
    """A folder of this name below another, nearest first."""
    for folder, folders, _ in _walk(root):
        if name in folders:
            return folder / name
    return None


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folder, names of its folders, names of its files; level by level, hidden ones left out."""
    level, seen = [root], 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            folders, files = _entries(folder)
            seen += len(folders) + len(files)
            if seen > MAX_FILES:
                return
            yield folder, folders, files
            below += map(folder.joinpath, folders)
        level = below


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return [], []
    folders, files = [], []
    for entry in entries:
        if not entry.is_dir():
            files.append(entry.name)
        elif not entry.name.startswith("."):
            folders.append(entry.name)
    return folders, files
