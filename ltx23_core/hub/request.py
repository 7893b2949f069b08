"""What the user asks for: a name of the catalogue, ``org/repo[@revision][:path]``, or a file's web address."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ..errors import RequestError
from .catalogue import ENTRIES

_REPO = r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
_SPEC = re.compile(_REPO + r"(?:@(?P<revision>[^@:\s]+))?(?::(?P<path>\S.*))?")
_ADDRESS = re.compile(rf"https?://(?:huggingface\.co|hf\.co)/{_REPO}"
                      r"(?:/(?:resolve|blob|tree)/(?P<revision>[^/?#]+)(?:/(?P<path>[^?#]+))?)?/?(?:[?#].*)?")


@dataclass(frozen=True)
class Request:
    """Files of one repository.

    Args:
        repo: "org/name".
        path: one file; "" for the whole repository; ending with "/" for a folder of it.
        revision: branch, tag or commit.
        folder: the folder of ComfyUI's models that it belongs in, "" where that is not known.
        instead: name of an entry of the catalogue that serves where this one may not be read.
    """

    repo: str
    path: str = ""
    revision: str = "main"
    folder: str = ""
    instead: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether several files are asked for, which keep their places in a folder."""
        return not self.path or self.path.endswith("/")

    @property
    def name(self) -> str:
        """The file's name, or that of the folder: how it is called on disk."""
        return PurePosixPath(self.path or self.repo).name

    def target(self, root: Path, path: str | None = None) -> Path:
        """Where a file of the request lies below `root`; without `path`, where the request as a whole lies."""
        if path is None or not self.is_folder:
            return root / self.name
        return root / self.name / path.removeprefix(self.path)


def parse(text: str) -> Request:
    """Read what the user wrote.

    Raises:
        RequestError: neither a name of the catalogue nor an address of a repository.
    """
    name, _, revision = text.partition("@")
    if name in ENTRIES:
        entry = ENTRIES[name]
        return Request(entry.repo, entry.path, revision or "main", entry.folder, entry.instead)
    match = _ADDRESS.fullmatch(text) or _SPEC.fullmatch(text)
    if match is None or not is_safe(match["path"] or "x"):
        raise RequestError(f"{text!r} names no file to download",
                           f"one of {', '.join(ENTRIES)}, or org/repo, org/repo@revision, "
                           "org/repo:path/in/repo",
                           "Choose a name from `python -m ltx23_core fetch --list`.")
    path = match["path"] or ""
    if text.startswith("http"):
        path = unquote(path)
    return Request(match["repo"], path, unquote(match["revision"] or "main"))


def is_safe(path: str) -> bool:
    """Whether a path of a repository stays below the folder that it is put in, on any system."""
    parts = unquote(path).removesuffix("/").split("/")
    return all(part not in ("", ".", "..") and not re.search(r'[\\:\x00-\x1f]', part) for part in parts)
