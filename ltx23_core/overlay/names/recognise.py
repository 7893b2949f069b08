"""Names what a file is by its tensor names and shapes (tables: `kinds`), for errors, lists and `identify`."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from ..bytes.source import AnyRef, QuantRef, TensorRef
from .kinds import CHECKPOINT, KINDS, OFFICIAL_FILE, UNKNOWN, Kind
from .lines import Lines

__all__ = ["CHECKPOINT", "OFFICIAL_FILE", "Names", "recognise"]

# `up_blocks.8` of a VAE keeps its number: it tells the generations apart.
_BLOCK = re.compile(r"((?:(?<!up_)(?<!down_)blocks|layers|resnets|res_blocks|resblocks|block)[._])\d+(?=[._])")
_PREFIX = re.compile(r"^(model\.)?(diffusion_model\.)?", re.M)


class Names:
    """The tensor names of a file in the form that the tables are searched in.

    Args:
        tensors: names, or names with their shapes and dtypes.
    """

    def __init__(self, tensors: Iterable[str]) -> None:
        self.tensors: dict[str, AnyRef] = {}
        if isinstance(tensors, Mapping):
            for name, ref in tensors.items():
                if isinstance(ref, TensorRef | QuantRef):
                    self.tensors[name] = ref
        self._all = list(tensors)

    @cached_property
    def lines(self) -> Lines:
        """Each name once; all blocks are block 0, so thousands of names become hundreds."""
        return Lines(_BLOCK.sub(r"\g<1>0", name) for name in self._all)

    @cached_property
    def text(self) -> Lines:
        """The lines as they are, and without the prefix of the transformer."""
        names = list(self.lines)
        bare = [_PREFIX.sub("", name) for name in names]
        return Lines(names + bare)

    def has(self, pattern: str) -> bool:
        """Whether some name matches."""
        return self.text.has(pattern)

    def size(self, pattern: str, dimension: int) -> int | None:
        """One dimension of the first tensor whose bare name matches, or None."""
        compiled = re.compile(pattern)
        for name, ref in self.tensors.items():
            if compiled.search(_PREFIX.sub("", name)) and dimension < len(ref.shape):
                return ref.shape[dimension]
        return None

    def is_kind(self, kind: Kind) -> bool:
        """Whether a row of the table describes this file."""
        return all(map(self.has, kind.has)) and not any(map(self.has, kind.lacks)) and (
            kind.shape is None or self.size(kind.shape[0], kind.shape[1]) == kind.shape[2])


def recognise(tensors: Iterable[str] | Names) -> Kind:
    """The kind of file that has these tensors: names, or a mapping from names to tensors (then shapes count too)."""
    names = tensors
    if not isinstance(names, Names):
        names = Names(tensors)
    for kind in KINDS:
        if names.is_kind(kind):
            return kind
    return UNKNOWN
