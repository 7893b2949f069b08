"""`identify`: one sentence about any file or folder, from its header alone. Nothing is loaded, nothing is unpickled."""
from __future__ import annotations

import os
import stat
from pathlib import Path

from ..bytes.endings import shard_of
from ..garbage import no_collection
from .identify_file import look_at, name_it
from .identify_folder import fingerprint, identify_folder, identify_shard
from .identity import Identity
from .not_weights import absent
from .remembered import Memory
from .tree import Tree


def identify(path: str | os.PathLike[str], memory: Memory | None = None, tree: Tree | None = None) -> Identity:
    """Say what a file or folder is. Reads headers only; never raises for what it finds there.

    Args:
        path: a file (with any extension or none) or a folder.
        memory: of earlier answers; what has not changed since is not read again.
        tree: listings of folders that were just made; else they are made here.
    """
    path = Path(os.path.abspath(path))
    tree = tree or Tree()
    known = remembered(path, memory, tree)
    if known is not None:
        return known
    with no_collection():  # it would look through the many small objects of a header and hold up every thread
        return _read_anew(path, memory, tree)


def _read_anew(path: Path, memory: Memory | None, tree: Tree) -> Identity:
    def inside(place: Path) -> Identity:
        return identify(place, memory, tree)

    entry = tree.entry(path)
    if entry is not None and entry.is_folder:
        return identify_folder(path, memory, tree, inside)
    shard = shard_of(path.name)
    if shard is not None:
        return identify_shard(path, shard, memory, tree, inside)
    head, result = look_at(path, entry.info, memory)
    if memory:
        memory.keep(path, entry.info.key, head, result)
    return _marked(path, tree, result if isinstance(result, Identity) else name_it(path, result, entry.info.size, tree))


def remembered(path: Path, memory: Memory | None, tree: Tree | None = None) -> Identity | None:
    """What is known of an absolute path without opening it: from memory, or because it is no file at all."""
    tree = tree or Tree()
    try:
        entry = tree.entry(path)
    except OSError as error:
        return absent(path, error)
    except ValueError:  # a null character, or half of a character
        return Identity(path, "absent", "no path of this system", fix="Check the path.")
    if entry is None or (entry.info is None and not entry.is_folder):
        return absent(path, FileNotFoundError())
    if not entry.is_folder and not stat.S_ISREG(entry.info.mode):
        return Identity(path, "no_file", "no ordinary file (a device, pipe or socket)", fix="Give a weight file.")
    if memory is None:
        return None
    if entry.is_folder or shard_of(path.name):
        known = memory.recall(path, fingerprint(path if entry.is_folder else path.parent, tree))
    else:
        known = memory.recall(path, entry.info.key)
    if known is None:
        return None
    if isinstance(known[1], Identity):
        return _marked(path, tree, known[1])
    return _marked(path, tree, name_it(path, known[1], entry.info.size, tree))


def _marked(path: Path, tree: Tree, found: Identity) -> Identity:
    """The same, unless a mark beside it says that it is still being downloaded."""
    mark = tree.mark_beside(path) if found.usable else ""
    if not mark:
        return found
    return found.refused("unfinished", f"{found.sentence}: unfinished download, {mark} is beside it",
                         f"Let the download finish; if it is finished, delete {mark}.")
