"""Encoded prompts on the disk, by choice: a prompt of last week costs reading 13 MB instead of Gemma.

An entry is a file of its own, named after everything that its numbers depend on. It is written whole or not at all, an
unreadable one counts as missing, and those used longest ago go when there are too many.
"""
from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import TEMPORARY, publish, sweep, temporary_beside

log = logging.getLogger("ltx23")

FORM = "1"  # of the entries; others are not found
MOST_BYTES = 2_000_000_000  # about 160 prompts in bfloat16
NAMES = "ltx23-prompt-*.safetensors"
_PROBLEMS = (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError)


class KeptPrompts:
    """A folder of encoded prompts, which several processes may use.

    Args:
        folder: made when the first prompt is kept.
        most_bytes: of all entries together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most = folder, most_bytes

    def find(self, parts: Iterable[str]) -> tuple[Tensor, Tensor] | None:
        """Video and audio context of a prompt, or None.

        Args:
            parts: what the numbers depend on.
        """
        path = self._path(parts)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                found = file.get_tensor("video"), file.get_tensor("audio")
            os.utime(path)  # used now
        except _PROBLEMS as error:
            log.warning("%s cannot be used (%s): the prompt is encoded again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return found

    def keep(self, parts: Iterable[str], video: Tensor, audio: Tensor) -> None:
        """Write an entry where there is none. A full disk costs the next run some seconds, not this one."""
        path = self._path(parts)
        if path.exists():
            return
        temporary = temporary_beside(path)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"video": video.contiguous(), "audio": audio.contiguous()}, temporary)
            publish(temporary, path)
        except (OSError, SafetensorError) as error:
            log.warning("encoded prompts cannot be kept in %s (%s)", self._folder, error)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        self._shrink()

    def _path(self, parts: Iterable[str]) -> Path:
        digest = hashlib.sha256("\n".join((FORM, *parts)).encode()).hexdigest()
        return self._folder / f"ltx23-prompt-{digest[:32]}.safetensors"

    def _shrink(self) -> None:
        """Delete those used longest ago until the rest is small enough, and what killed writers left."""
        sweep(self._folder, f".ltx23-prompt-*{TEMPORARY}")
        entries = []
        for path in self._folder.glob(NAMES):
            with contextlib.suppress(OSError):  # another process may have taken it
                info = path.stat()
                entries.append((info.st_mtime_ns, info.st_size, path))
        total = 0
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self._most:
                with contextlib.suppress(OSError):
                    path.unlink()
