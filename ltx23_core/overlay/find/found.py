"""What one file, or the shards of one model, brings: components, configuration, sources. Headers only."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import OverlayError, examples
from ..bytes.gguf import is_gguf, read_gguf_weights
from ..bytes.header import Header, parse_json, read_header, read_json
from ..bytes.source import AnyRef, SourceFile
from ..names.diffusers import official_config
from ..names.layout import LAYOUTS, Tensors, match
from ..names.recognise import recognise
from ..packed.formats import FP8

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_FOLDER = {layout.name: layout.diffusers for layout in LAYOUTS if layout.diffusers}
_TRANSFORMERS = re.compile(r"transformer (under|without) ")
CONFIG_FILE = "config.json"


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
        return {name: ref for header in self.headers for name, ref in header.tensors.items()}

    @cached_property
    def metadata(self) -> dict[str, str]:
        """All metadata; of equal keys the first file's."""
        return {key: value for header in reversed(self.headers) for key, value in header.metadata.items()}

    @property
    def folder(self) -> Path:
        """Where config.json would be."""
        return self.headers[0].path.parent

    @property
    def kind(self) -> str:
        """What the files are, for messages."""
        return recognise(self.tensors).name


@dataclass(frozen=True)
class Found:
    """What was found in one place.

    Args:
        files: the place.
        layout: name of the table that fits.
        components: component -> parameter name -> tensor.
        config: part of the official ``config`` (or component) -> its values, as far as the place says them.
        sources: the files that an overlay has to watch.
        version: the model version that the metadata state.
        leftover: keys of no component.
        tokenizer: folder of the tokenizer that goes with a text encoder.
        notes: sentences for the report.
    """

    files: Files
    layout: str
    components: dict[str, Tensors]
    config: dict[str, Any]
    sources: tuple[SourceFile, ...]
    version: str | None = None
    leftover: Sequence[str] = ()
    tokenizer: Path | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.files.path


def read_files(path: Path) -> Files:
    """Read the header of a file; one of several shards stands for all of them.

    Raises:
        OverlayError: unreadable, damaged, no safetensors file, or shards missing.
    """
    shard = _SHARD.fullmatch(path.name)
    if shard is None:
        return Files(path, (read_gguf_weights(path) if is_gguf(path) else read_header(path),))
    return read_shards(path.parent, shard["stem"])


def read_shards(folder: Path, stem: str) -> Files:
    """Read the headers of all shards that the index, or the shards' own names, tell of.

    Raises:
        OverlayError: as `read_files`; missing shards are listed.
    """
    names = shard_names(folder, stem)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise OverlayError(f"{folder} lacks {len(missing)} of {len(names)} shards: {examples(missing)}",
                           "every shard of the model", "Download the missing files into this folder.")
    return Files(folder, tuple(read_header(folder / name) for name in sorted(names)))


def shard_names(folder: Path, stem: str) -> set[str]:
    """File names of the shards of a model; empty if there are none.

    Raises:
        OverlayError: the index is damaged.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        table = read_json(index).get("weight_map")
        names = set(table.values()) if isinstance(table, dict) and all(
            isinstance(name, str) and Path(name).name == name for name in table.values()) else set()
        if not names:
            raise OverlayError(f"{index} has no usable weight_map", "tensor names -> file names in the same folder",
                               f"Download {index.name} again.")
        return names
    counts = {int(match["count"]) for path in folder.glob("*.safetensors")
              if (match := _SHARD.fullmatch(path.name)) and match["stem"] == stem}
    count = max(counts, default=0)
    return {f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(min(count, 9999))}


def describe(files: Files) -> Found | None:
    """What the files bring, by their content; None if nothing of LTX-2.3.

    Raises:
        OverlayError: the metadata are damaged, or weights are quantised in a way that cannot be read.
    """
    found = match(files)
    if found is None:
        return None
    config = _metadata_config(files)
    sources = [header.source for header in files.headers]
    if not config and "text_encoder" not in found.components:
        beside = files.folder / CONFIG_FILE
        folder = _FOLDER.get(found.layout, "transformer" if _TRANSFORMERS.match(found.layout) else None)
        if folder is not None and beside.is_file():
            config = official_config(folder, read_json(beside))
            sources.append(SourceFile.of(beside))
    return Found(files, found.layout, found.components, config, tuple(sources), files.metadata.get("model_version"),
                 found.leftover, notes=_notes(files, found.components))


def _notes(files: Files, components: dict[str, Tensors]) -> tuple[str, ...]:
    cast = sum(ref.dtype in FP8 for tensors in components.values() for ref in tensors.values())
    return (f"{cast} tensors of {files.path.name} are fp8 without scales: taken as plain numbers",) if cast else ()


def _metadata_config(files: Files) -> dict[str, Any]:
    """The JSON object ``config`` of the metadata; empty where there is none."""
    text = files.metadata.get("config")
    if text is None:
        return {}
    try:
        value = parse_json(text)
    except ValueError as error:
        raise OverlayError(f"the metadata 'config' of {files.path} is not JSON ({error})", "a JSON object",
                           "Download the file again, or use the official one.") from error
    if not isinstance(value, dict):
        raise OverlayError(f"the metadata 'config' of {files.path} is not a JSON object", "a JSON object",
                           "Download the file again, or use the official one.")
    return value
