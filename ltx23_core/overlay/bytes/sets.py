"""The models that lie in one folder: a file each, or shards that belong together. By names; then headers are read."""
from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import OverlayError, examples
from .endings import INDEX, is_weights, shard_of, stem_of
from .gguf import is_gguf
from .header import Header, read_json
from .source import AnyRef
from .weights import read_weights

_GENERAL = ("diffusion_pytorch_model", "model")  # beside them, names with a dot are the same in another precision


@dataclass(frozen=True)
class Files:
    """One weight file, or all shards of one model; as `layout.match` wants it.

    Args:
        path: the file, or the folder of the shards.
        headers: of each file.
    """

    path: Path
    headers: tuple[Header, ...]

    @cached_property
    def tensors(self) -> dict[str, AnyRef]:
        """All tensors."""
        tensors: dict[str, AnyRef] = {}
        for header in self.headers:
            tensors |= header.tensors
        return tensors

    @cached_property
    def metadata(self) -> dict[str, str]:
        """All metadata; of equal keys the first file's."""
        metadata: dict[str, str] = {}
        for header in reversed(self.headers):
            metadata |= header.metadata
        return metadata

    @property
    def folder(self) -> Path:
        """Where config.json would be."""
        return self.headers[0].path.parent


def weight_sets(folder: Path) -> list[Files]:
    """The models in a folder (not below it), headers read: shards together, other precisions of the same left out.

    Raises:
        OverlayError: as `read_files`.
    """
    singles, sharded = _stems(folder)
    stems = sharded | set(singles)
    for general in _GENERAL:
        if general in stems:
            stems = {stem for stem in stems if not stem.startswith(f"{general}.")}
    return [read_stem(folder, stem) for stem in sorted(stems)]


def read_stem(folder: Path, stem: str) -> Files:
    """One model of a folder. Of its two forms the shards count, if all of them are there.

    Args:
        folder: where it lies.
        stem: its name without ending and number, as `endings.stem_of` gives it.

    Raises:
        OverlayError: as `read_files`.
    """
    singles, sharded = _stems(folder)
    complete = stem in sharded and not _missing(folder, shard_names(folder, stem))
    if complete or stem not in singles:
        return read_shards(folder, stem)
    return read_files(folder / singles[stem])


def has_stem(folder: Path, stem: str) -> bool:
    """Whether a folder has a model of this name, complete or not."""
    singles, sharded = _stems(folder)
    return stem in singles or stem in sharded


def _stems(folder: Path) -> tuple[dict[str, str], set[str]]:
    """Stem -> file of the models that are one file, and the stems of those in shards."""
    singles: dict[str, str] = {}
    sharded: set[str] = set()
    for name in sorted(os.listdir(folder)):
        if not (folder / name).is_file():
            continue
        if name.endswith(INDEX):
            sharded.add(name.removesuffix(INDEX))
        elif shard_of(name):
            sharded.add(stem_of(name))
        elif is_weights(name):
            stem = stem_of(name)
            if is_gguf(folder / name):  # in one folder lie several quantisations of one model
                stem = name
            singles[stem] = name
    return singles, sharded


def read_files(path: Path) -> Files:
    """Read the header of a file; one of several shards stands for all of them.

    Raises:
        OverlayError: unreadable, damaged, no weight file, or shards missing.
    """
    if shard_of(path.name):
        return read_shards(path.parent, stem_of(path.name))
    return Files(path, (read_weights(path),))


def read_shards(folder: Path, stem: str) -> Files:
    """Read the headers of all shards that the index, or the shards' own names, tell of.

    Raises:
        OverlayError: as `read_files`; missing shards are listed.
    """
    names = shard_names(folder, stem)
    missing = _missing(folder, names)
    if missing:
        raise OverlayError(f"{folder} lacks {len(missing)} of {len(names)} shards: {examples(missing)}",
                           "every shard of the model", "Download the missing files into this folder.")
    first, *others = sorted(names)
    head = read_weights(folder / first)
    architecture = head.metadata.get("general.architecture", "")
    rest = [read_weights(folder / name, architecture) for name in others]
    return Files(folder, (head, *rest))


def _missing(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of these files that are not there, in order."""
    return sorted(name for name in names if not (folder / name).is_file())


def shard_names(folder: Path, stem: str) -> set[str]:
    """File names of the shards of a model; empty if there are none.

    Raises:
        OverlayError: the index is damaged.
    """
    index = folder / f"{stem}{INDEX}"
    if index.is_file():
        return _indexed(index)
    there = os.listdir(folder)
    shards = [shard for shard in map(shard_of, there) if shard is not None and shard.stem == stem]
    if not shards:
        return set()
    longest = max(shards, key=lambda shard: (shard.count, len(set(there).intersection(shard.names()))))
    return set(longest.names())


def _indexed(index: Path) -> set[str]:
    table = read_json(index).get("weight_map")
    names: set[object] = set()
    if isinstance(table, dict):
        names = set(table.values())
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise OverlayError(f"{index} has no usable weight_map",
                           "tensor names -> file names in the same folder",
                           f"Download {index.name} again.")
    return names
