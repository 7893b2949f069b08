"""Clips and scores kept on disk, so that a long measurement goes on where it was stopped."""
from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from ltx23_core.atomic import replacing


def digest(*parts: object) -> str:
    """A short name for everything that a result depends on; the bytes of what is a file."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return total.hexdigest()[:16]


class Kept:
    """Clips of one way to run: files named after their number and prompt.

    Args:
        folder: where; None: nothing is kept.
        identity: what the clips depend on beside number and prompt (paths: the bytes of these files).
    """

    def __init__(self, folder: Path | None, *identity: object) -> None:
        self._folder = None if folder is None else folder / digest(*identity)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, number: int, prompt: str) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Frames, sound and seconds of a clip that was kept."""
        path = self._path(number, prompt)
        if path is None or not path.is_file():
            return None
        with np.load(path) as found:
            return found["frames"], found["wave"], float(found["seconds"])

    def write(self, number: int, prompt: str, frames: np.ndarray, wave: np.ndarray, seconds: float) -> None:
        """Keep a clip."""
        path = self._path(number, prompt)
        if path is None:
            return
        with replacing(path) as file:
            np.savez_compressed(file, frames=frames, wave=wave, seconds=seconds)

    def _path(self, number: int, prompt: str) -> Path | None:
        return self._folder and self._folder / f"{number:04}-{digest(prompt)}.npz"


class KeptScores:
    """Scores of a feature's check: a line of JSON an example.

    Args:
        folder: where; None: nothing is kept.
        name: of the check.
        identity: names what the scores depend on beside the example.
    """

    def __init__(self, folder: Path | None, name: str, identity: str) -> None:
        self._path = folder and folder / f"{name.replace(' ', '-')}-{identity}.jsonl"
        self._found: dict[tuple[int, str], dict[tuple[str, str], float]] = {}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._read()

    def _read(self) -> None:
        if not self._path.is_file():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that a stopped run did not end
                number, prompt, scores = json.loads(line)
                self._found[number, prompt] = {(what, unit): score for what, unit, score in scores}

    def read(self, number: int, prompt: str) -> dict[tuple[str, str], float] | None:
        """Scores of an example, if they were kept."""
        return self._found.get((number, prompt))

    def write(self, number: int, prompt: str, scores: dict[tuple[str, str], float]) -> None:
        """Keep the scores of an example."""
        if self._path is None:
            return
        line = json.dumps([number, prompt, [[*key, score] for key, score in scores.items()]])
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
