"""What a long run has done so far, on disk: so that an interrupt, a crash or a shutdown costs one window at most."""
from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import publish, temporary_beside
from ..plan.latents import Latents
from .long import Made

log = logging.getLogger("ltx23")
KEPT_SECONDS = 14 * 24 * 3600  # files of settings that nobody came back to are removed after that
PATTERNS = ("ltx23-*.safetensors", ".*.tmp")
_PROBLEMS = (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError)


class Progress:
    """Windows done so far of one sample, one file a stage; each is replaced whole, so a crash leaves the one before.

    Args:
        folder: where the files are; None: nothing is kept.
        digest: of all settings of the run; another run has other files.
        say: told in words what an earlier run had done.
    """

    def __init__(self, folder: Path | None = None, digest: str = "", say: Callable[[str], None] | None = None) -> None:
        self._folder, self._digest = folder, digest[:16]
        self._say = say or (lambda text: None)

    def _file(self, part: str) -> Path:
        return self._folder / f"ltx23-{self._digest}-{part}.safetensors"

    def load(self, stage: int, made: Made) -> int:
        """Fill in what an earlier run of the same settings made; the number of its windows, 0 where there is none."""
        found = self._read(f"stage{stage}")
        if found is None:
            return 0
        tensors, facts = found
        try:
            for name, part in made.items():
                part.copy_(tensors[name].view_as(part))
            done = int(facts["windows"])
        except _PROBLEMS as error:
            self._unusable(f"stage{stage}", error)
            return 0
        self._tell(f"Stage {stage} goes on after {done} windows of an earlier run.")
        return done

    def save(self, stage: int, windows: int, made: Made) -> None:
        """Keep what is done. A full disk costs the ability to go on later, not the run."""
        self._write(f"stage{stage}", made, {"windows": str(windows)})

    def result(self) -> dict[str, object] | None:
        """``video``, ``audio`` and ``drawn`` of a sample that an earlier run had finished, or None."""
        found = self._read("done")
        if found is None:
            return None
        tensors, facts = found
        try:
            drawn = tuple(tuple(shape) for shape in json.loads(facts["drawn"]))
        except _PROBLEMS as error:
            self._unusable("done", error)
            return None
        self._tell("A sample is taken over from an earlier run.")
        return {"video": tensors.get("video"), "audio": tensors.get("audio"), "drawn": drawn}

    def keep(self, latents: Latents) -> None:
        """Keep a finished sample until its batch is finished; its windows are no longer needed."""
        parts = {"video": latents.video, "audio": latents.audio}
        if self._write("done", {name: part for name, part in parts.items() if part is not None},
                       {"drawn": json.dumps(latents.drawn)}):
            self._remove("stage*")

    def finish(self) -> None:
        """Delete the files of a run that ended well."""
        self._remove("*")

    def _remove(self, parts: str) -> None:
        if self._folder is not None:
            for file in self._folder.glob(f"ltx23-{self._digest}-{parts}.safetensors"):
                file.unlink(missing_ok=True)

    def _read(self, part: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        if self._folder is None or not self._file(part).exists():
            return None
        try:
            with safe_open(self._file(part), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        except _PROBLEMS as error:
            self._unusable(part, error)
            return None

    def _write(self, part: str, tensors: Made, facts: dict[str, str]) -> bool:
        """Write a file, all of it or nothing; whether it is there."""
        if self._folder is None:
            return False
        temporary = temporary_beside(self._file(part))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, facts)
            publish(temporary, self._file(part))
        except (OSError, SafetensorError) as error:
            log.warning("the windows done so far cannot be kept in %s (%s)", self._folder, error)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    def _unusable(self, part: str, error: Exception) -> None:
        log.warning("%s cannot be used (%s): the stage begins anew", self._file(part), error)

    def _tell(self, text: str) -> None:
        log.info("%s", text)
        self._say(text)


def sweep(folder: Path | None, seconds: float = KEPT_SECONDS) -> None:
    """Remove files of runs that nobody came back to: those older than so many seconds, and no others."""
    if folder is None or not folder.is_dir():
        return
    for pattern in PATTERNS:
        for file in folder.glob(pattern):
            with contextlib.suppress(OSError):  # another process may have taken it
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()
