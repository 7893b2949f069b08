"""A hash of settings by content: what tells one long run from another on disk."""
from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

PIECE = 1 << 24  # bytes hashed between two looks at an interrupt


def fingerprint(*values: object, check: Callable[[], None] | None = None) -> str:
    """SHA-256 of settings: dataclasses, containers, tensors, numbers and text, by content.

    A tensor is hashed piece by piece where it lies, and once however often it occurs.

    Args:
        check: called between pieces of 16 MB; may raise to interrupt.

    Raises:
        TypeError: something whose content is not known; an address must never pass for one.
    """
    writer = _Writer(check or (lambda: None))
    for value in values:
        writer.add(value)
    return writer.digest.hexdigest()


class _Writer:
    def __init__(self, check: Callable[[], None]) -> None:
        self.digest = hashlib.sha256()
        self._check = check
        self._known: dict[int, tuple[Tensor, str]] = {}  # the tensor is kept, so that its id stays its own

    def add(self, value: object) -> None:
        """Add one value, with what is in it."""
        if isinstance(value, Tensor):
            self._text(f"tensor {value.dtype} {tuple(value.shape)} {self._content(value)}")
        elif dataclasses.is_dataclass(value):
            self._text(type(value).__name__)
            for field in dataclasses.fields(value):
                self._text(field.name)
                self.add(getattr(value, field.name))
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.add((key, value[key]))
        elif isinstance(value, (set, frozenset)):
            self.add(sorted(value, key=str))
        elif isinstance(value, (list, tuple)):
            self._text(f"{len(value)} of")
            for part in value:
                self.add(part)
        elif value is None or isinstance(value, (str, bytes, int, float, os.PathLike)):
            self._text(f"{type(value).__name__} {value!r};")
        elif type(value).__module__ == "fractions":
            self._text(f"fraction {value};")
        else:
            raise TypeError(f"no fingerprint of {type(value).__name__}")

    def _text(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "surrogateescape"))

    def _content(self, tensor: Tensor) -> str:
        """SHA-256 of a tensor's values in the order of its axes."""
        if id(tensor) not in self._known:
            digest = hashlib.sha256()
            values = tensor.detach().cpu()
            if values.is_contiguous():
                self._bytes(digest, values)
            else:  # made contiguous along the first axis, one entry after the other
                for part in values:
                    self._bytes(digest, part)
            self._known[id(tensor)] = (tensor, digest.hexdigest())
        return self._known[id(tensor)][1]

    def _bytes(self, digest: hashlib._Hash, values: Tensor) -> None:
        view = memoryview(values.contiguous().flatten().view(torch.uint8).numpy())
        for start in range(0, len(view), PIECE):
            self._check()
            digest.update(view[start:start + PIECE])
