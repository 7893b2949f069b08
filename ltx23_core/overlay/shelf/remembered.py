"""Remembers what files are, so that a folder of hundreds of files is listed without reading any of them again.

Two tables: a file (path, size, time, inode) points to the hash of its header; the hash points to what that header
says. A moved or copied file is known by its header, a changed one is read anew.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import secrets
import threading
from functools import cache
from pathlib import Path
from typing import Any

from .facts import Facts
from .identify import Identity

log = logging.getLogger("ltx23")
MAX_FILES = 20_000
_SOURCES = ("names/kinds.py", "shelf/facts.py", "shelf/identify.py", "shelf/identify_folder.py",
            "names/layout.py", "names/recognise.py")
Key = tuple[int, ...] | str


@cache
def tables_hash() -> str:
    """Stands for the tables and code that make the sentences: a memory made by others is forgotten."""
    here = Path(__file__).parents[1]
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]


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
            result = known[2] or self.facts.get(known[1])
            return None if result is None else (known[1], result)

    def keep(self, path: Path, key: Key, head: str, result: Facts | Identity) -> None:
        """Remember an answer: by header where there is one, else for this file alone."""
        with self._lock:
            if isinstance(result, Facts):
                self.facts[head] = result
            self._files[str(path)] = (key, head, result if isinstance(result, Identity) else None)
            self._changed = True

    def save(self) -> None:
        """Write what is new, all of it or nothing. A folder that cannot be written is no error."""
        with self._lock:
            if self.path is None or not self._changed:
                return
            text = json.dumps(self._content(), separators=(",", ":"))
            self._changed = False
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        except (OSError, UnicodeEncodeError) as error:
            log.debug("%s is not written: %s", self.path, error)
            temporary.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        files = dict(list(self._files.items())[-MAX_FILES:])
        used = {head for _, head, _ in files.values()}
        return {"tables": tables_hash(),
                "facts": {head: dataclasses.asdict(facts) for head, facts in self.facts.items() if head in used},
                "files": {path: [key, head, identity and {**vars(identity), "path": str(identity.path)}]
                          for path, (key, head, identity) in files.items()}}

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            if content["tables"] != tables_hash():
                return
            facts = {head: Facts(**{**entry, "brings": tuple(entry["brings"])})
                     for head, entry in content["facts"].items()}
            files = {name: (key if isinstance(key, str) else tuple(key), head, entry and Identity(
                        **{**entry, "path": Path(entry["path"]), "brings": tuple(entry["brings"])}))
                     for name, (key, head, entry) in content["files"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.debug("%s is ignored: %s", path, error)
            return
        self.facts, self._files = facts, files
