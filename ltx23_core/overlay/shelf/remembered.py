"""Remembers what files are, so that a folder of hundreds of files is listed without reading any of them again.

Two tables: a file (path, size, time, inode) points to the hash of its header; the hash points to what that header
says. A moved or copied file is known by its header, a changed one is read anew.
"""
from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ...atomic import write_whole
from .facts import Facts
from .identity import Identity

log = logging.getLogger("ltx23")
MAX_FILES = 20_000
_FROM = r"from (\.+)([\w.]*) import (\([^)]*\)|[^(\n]+)"
_IMPORT, _ANY_IMPORT = re.compile(f"^{_FROM}", re.M), re.compile(rf"^[ \t]*{_FROM}", re.M)
Key = tuple[int, ...] | str


@cache
def tables_hash() -> str:
    """Stands for the tables and code that make the sentences: a memory made by others is forgotten."""
    start = Path(__file__).with_name("identify.py")  # not imported: it remembers by this module
    whole = hashlib.sha256()
    for path in imported_files(start):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def imported_files(module: Path) -> list[Path]:
    """The source files of this library that a module stands on, and the data files beside them.

    Imports are followed as Python does it when the module is loaded; imports inside functions count in this folder
    alone (elsewhere they build models, which recognition never does).
    """
    root = Path(__file__).parents[2]
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        pattern = _IMPORT
        if path.parent == Path(__file__).parent:
            pattern = _ANY_IMPORT
        waiting += [each for each in _imports_of(path, pattern) if root in each.parents]
    data: set[Path] = set()
    for path in found:
        data.update(path.parent.glob("*.json"))
    return sorted(found | data)


def _imports_of(path: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Files that the relative imports of one file name: modules, packages, and modules named after ``import``."""
    for dots, place, names in pattern.findall(path.read_text(encoding="utf-8")):
        folder = path.parents[len(dots) - 1]
        base = folder.joinpath(*place.split("."))  # an empty name adds nothing
        yield from _sources(base)
        for listed in names.strip("() \n").split(","):
            name = listed.split(" as ")[0].strip()
            if name.isidentifier():
                yield from _sources(base / name)


def _sources(module: Path) -> Iterator[Path]:
    """The file of a module, or of a package."""
    for file in (module.with_suffix(".py"), module / "__init__.py"):
        if file.is_file():
            yield file


class Memory:
    """Earlier answers of `identify`, on disk if a path is given. Safe to use from several threads.

    A file that is broken, of another version or not writable is ignored: then it merely takes longer.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.facts: dict[str, Facts] = {}
        self._files: dict[str, tuple[Key, str, Identity | None]] = {}
        self._lock = threading.Lock()
        self._changed = False
        if path is not None:
            self._load(path)

    def recall(self, path: Path, key: Key) -> tuple[str, Facts | Identity] | None:
        """Hash of the header and what was found, if the file has not changed since."""
        with self._lock:
            known = self._files.get(str(path))
            if known is None or known[0] != key:
                return None
            _, head, identity = known
            result = identity or self.facts.get(head)
            if result is None:
                return None
            return head, result

    def keep(self, path: Path, key: Key, head: str, result: Facts | Identity) -> None:
        """Remember an answer: by header where there is one, else for this file alone."""
        with self._lock:
            if isinstance(result, Facts):
                self.facts[head] = result
                self._files[str(path)] = (key, head, None)
            else:
                self._files[str(path)] = (key, head, result)
            self._changed = True

    def save(self) -> None:
        """Write what is new, all of it or nothing. A folder that cannot be written is no error."""
        with self._lock:
            if self.path is None or not self._changed:
                return
            text = json.dumps(self._content(), separators=(",", ":"))
            self._changed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text)
        except (OSError, UnicodeEncodeError) as error:
            log.debug("%s is not written: %s", self.path, error)

    def _content(self) -> dict[str, Any]:
        facts, files = {}, {}
        for path, (key, head, identity) in list(self._files.items())[-MAX_FILES:]:
            files[path] = [key, head, identity and {**vars(identity), "path": str(identity.path)}]
            if head in self.facts:
                facts[head] = vars(self.facts[head])
        return {"tables": tables_hash(), "facts": facts, "files": files}

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            if content["tables"] != tables_hash():
                return
            facts = {head: _facts(entry) for head, entry in content["facts"].items()}
            files = {}
            for name, (key, head, entry) in content["files"].items():
                files[name] = _key(key), head, entry and _identity(entry)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.debug("%s is ignored: %s", path, error)
            return
        self.facts, self._files = facts, files


def _key(stored: str | list[int]) -> Key:
    """JSON knows no tuples."""
    if isinstance(stored, str):
        return stored
    return tuple(stored)


def _facts(entry: dict[str, Any]) -> Facts:
    return Facts(**{**entry, "brings": tuple(entry["brings"])})


def _identity(entry: dict[str, Any]) -> Identity:
    return Identity(**{**entry, "path": Path(entry["path"]), "brings": tuple(entry["brings"]),
                       "would": tuple(entry.get("would", ()))})
