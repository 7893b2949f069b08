"""The only file that talks to huggingface_hub: listing, metadata, the user's cache, and the bytes.

Bytes are read with the library's own HTTP session (its proxies, certificates, offline switch and login), not with its
`hf_hub_download`: from 2.x on that one deletes what has arrived when a download is interrupted. Only functions that
both 0.26 (transformers 4.50) and 2.4 have are used.
"""
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import errors
from .errors import HubError, is_passing
from .request import Request, is_safe
from .there import is_real

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

T = TypeVar("T")
CHUNK = 1 << 18  # bytes; an interruption waits for one
# Seconds; a refusal that took longer was retried by the library itself (0.36 to 1.x: for 23 s).
QUICK = 2.0
_PARTIAL_CONTENT = 206
_LOGIN = re.compile(r"//[^/@]*@")
# What a model is made of. No program code, no pickles, no pictures.
PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it.

    Args:
        path: in the repository.
        url: of its content, with the commit in it.
        size: bytes.
        commit: of the repository.
        etag: SHA-256 of the content for large files, git's hash for small ones.
    """

    path: str
    url: str
    size: int
    commit: str
    etag: str


@dataclass(frozen=True)
class Hub:
    """A hub and a cache.

    Args:
        endpoint: address without a slash at the end; None takes HF_ENDPOINT, else huggingface.co.
        cache: folder of the hub's cache; None takes the user's own.
    """

    endpoint: str | None = None
    cache: Path | None = None

    def address(self, request: Request) -> str:
        """The page of the repository, for messages: without a login that a mirror's address may hold."""
        from huggingface_hub import constants

        endpoint = _LOGIN.sub("//", self.endpoint or constants.ENDPOINT)
        return f"{endpoint.rstrip('/')}/{request.repo}"

    def files(self, request: Request, root: Path | None) -> list[RemoteFile]:
        """Ask the hub for all that a request names, one question a file, so that no refusal comes late.

        Raises:
            HubError: there is no such file, it may not be read, or the hub cannot be reached.
        """
        from huggingface_hub import HfApi

        with self.explained(request, root):
            if not request.is_folder:
                return [self._file(request, request.path, request.revision)]
            info = _patiently(lambda: HfApi(endpoint=self.endpoint).model_info(
                request.repo, revision=request.revision, timeout=_timeout()))
            names = [each.rfilename for each in info.siblings or () if _belongs(each.rfilename, request.path)]
            if not names:
                raise HubError(f"{request.repo} {request.path} holds no model files".replace("  ", " "),
                               f"files such as {', '.join(PATTERNS)}",
                               f"Look at {self.address(request)}/tree/main.")
            return [self._file(request, name, info.sha or request.revision) for name in names]

    def _file(self, request: Request, path: str, revision: str) -> RemoteFile:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if not is_safe(path):
            raise HubError(f"{request.repo} names a file {path!r}", "a path that stays in its folder",
                           "Do not use this repository.")
        url = hf_hub_url(request.repo, path, revision=revision, endpoint=self.endpoint)
        data = _patiently(lambda: get_hf_file_metadata(url, timeout=_timeout()))
        if data.commit_hash is None or data.etag is None or data.size is None:
            raise errors.not_a_hub(url)
        pinned = hf_hub_url(request.repo, path, revision=data.commit_hash, endpoint=self.endpoint)
        return RemoteFile(path, pinned, data.size, data.commit_hash, data.etag)

    def cached(self, request: Request, file: RemoteFile) -> Path | None:
        """The file in the user's cache, of this commit and whole, or None."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(request.repo, file.path, cache_dir=self.cache, revision=file.commit)
        if not isinstance(found, str) or Path(found).stat().st_size != file.size:
            return None
        return Path(found)

    def cached_unasked(self, request: Request) -> dict[str, Path]:
        """What the cache has of a request, without a hub to compare it with; empty unless it is complete."""
        from huggingface_hub import try_to_load_from_cache

        if not request.is_folder:
            found = try_to_load_from_cache(request.repo, request.path, cache_dir=self.cache,
                                           revision=request.revision)
            if not isinstance(found, str):
                return {}
            return {request.path: Path(found)}
        config = try_to_load_from_cache(request.repo, f"{request.path}config.json", cache_dir=self.cache,
                                        revision=request.revision)
        if not isinstance(config, str) or not is_complete(Path(config).parent):
            return {}
        return files_below(Path(config).parent, request.path)

    @contextmanager
    def stream(self, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Open a file at a byte; gives where the answer really begins (0 if the server knows no ranges) and chunks.

        Redirects to other hosts do not carry the login: both clients see to that.
        """
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = {**build_hf_headers(library_name="ltx23"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session = get_session()
        if callable(getattr(session, "stream", None)):  # httpx, from huggingface_hub 1.0 on
            opened = session.stream("GET", file.url, headers=headers, timeout=_timeout(),
                                    follow_redirects=True)
        else:  # requests
            opened = session.get(file.url, headers=headers, timeout=_timeout(), stream=True)
        with opened as answer:
            hf_raise_for_status(answer)
            if answer.status_code != _PARTIAL_CONTENT:
                start = 0
            read = getattr(answer, "iter_bytes", None) or answer.iter_content  # httpx, requests
            yield start, read(CHUNK)

    def explained(self, request: Request, root: Path | None) -> AbstractContextManager[None]:
        """Errors in our words around questions to the hub; `root` is where the files are to be."""
        address = self.address(request)
        where = f"{address}/resolve/{request.revision}/{request.path}"
        if request.is_folder:
            where = f"{address}/tree/{request.revision}"
        manual = ""
        if root:
            manual = f"Or download {where} on another computer and put it into {root} as {request.name}."
        return errors.explained(request, address, manual)


def files_below(folder: Path, prefix: str) -> dict[str, Path]:
    """The model files in a folder by their paths in the repository, where the folder is called `prefix`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _belongs(path.name, ""):
            found[prefix + path.relative_to(folder).as_posix()] = path
    return found


def is_complete(folder: Path) -> bool:
    """Whether a model folder has weights, and all that its indices name."""
    weights = list(folder.glob("*.safetensors"))
    if not weights or not all(map(is_real, weights)) or any(folder.glob(".*.incomplete")):
        return False
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False
        if not all((folder / str(name)).is_file() for name in shards):
            return False
    return True


def _belongs(path: str, prefix: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return path.startswith(prefix) and any(fnmatch(name, pattern) for pattern in PATTERNS)


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def _patiently(ask: Callable[[], T]) -> T:
    """Ask, and once more if the way there was disturbed."""
    start = time.monotonic()
    try:
        return ask()
    except Exception as error:
        if not is_passing(error) or time.monotonic() - start > QUICK:
            raise
    return ask()
