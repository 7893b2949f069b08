"""What a long run has done so far, on disk: so that an interrupt, a crash or a shutdown costs one window at most."""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..sampling.state import Streams

log = logging.getLogger("ltx23")


def fingerprint(*values: object) -> str:
    """SHA-256 of settings: dataclasses, containers, tensors, numbers and text, by content.

    Raises:
        TypeError: something whose content is not known; an address must never pass for one.
    """
    digest = hashlib.sha256()
    for value in values:
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, value: object) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif dataclasses.is_dataclass(value):
        digest.update(type(value).__name__.encode())
        for field in dataclasses.fields(value):
            digest.update(field.name.encode())
            _add(digest, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _add(digest, (key, value[key]))
    elif isinstance(value, (list, tuple, set, frozenset)):
        digest.update(f"{len(value)} of".encode())
        for part in sorted(value, key=str) if isinstance(value, (set, frozenset)) else value:
            _add(digest, part)
    elif value is None or isinstance(value, (str, bytes, int, float, os.PathLike)):
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", "surrogateescape"))
    else:
        raise TypeError(f"no fingerprint of {type(value).__name__}")


class Progress:
    """Windows done so far, one file a stage; each is replaced whole, so a crash leaves the one before.

    Args:
        folder: where the files are; None: nothing is kept.
        digest: of all settings of the run; another run has other files.
    """

    def __init__(self, folder: Path | None, digest: str = "") -> None:
        self._folder, self._digest = folder, digest[:16]

    def _file(self, stage: int) -> Path:
        return self._folder / f"ltx23-{self._digest}-stage{stage}.safetensors"

    def load(self, stage: int, result: Streams) -> int:
        """Fill in what an earlier run of the same settings made; the number of its windows, 0 where there is none."""
        if self._folder is None or not self._file(stage).exists():
            return 0
        try:
            with safe_open(self._file(stage), framework="pt") as file:
                for name, part in zip(("video", "audio"), result, strict=True):
                    if part is not None:
                        part.copy_(file.get_tensor(name))
                done = int(file.metadata()["windows"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            log.warning("%s cannot be used (%s): the stage begins anew", self._file(stage), error)
            return 0
        log.info("stage %d goes on after %d windows of an earlier run", stage, done)
        return done

    def save(self, stage: int, windows: int, result: Streams) -> None:
        """Keep what is done. A full disk costs the ability to go on later, not the run."""
        if self._folder is None:
            return
        temporary = self._folder / f".{self._digest}-{secrets.token_hex(6)}.tmp"
        tensors = {name: part.cpu().contiguous() for name, part in zip(("video", "audio"), result, strict=True)
                   if part is not None}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"windows": str(windows)})
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self._file(stage))
        except (OSError, SafetensorError) as error:
            log.warning("the windows done so far cannot be kept in %s (%s)", self._folder, error)
            with contextlib.suppress(OSError):
                temporary.unlink()

    def finish(self) -> None:
        """Delete the files of a run that ended well."""
        if self._folder is not None:
            for file in self._folder.glob(f"ltx23-{self._digest}-stage*.safetensors"):
                file.unlink(missing_ok=True)
