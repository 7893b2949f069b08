"""What one file, or the shards of one model, brings: components, configuration, sources. Headers only."""
from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import OverlayError
from ..bytes.header import parse_json, read_json
from ..bytes.sets import Files
from ..bytes.source import SourceFile
from ..names.diffusers import official_config
from ..names.layout import LAYOUTS, Tensors, match
from ..names.recognise import recognise
from ..packed.formats import FP8

_FOLDER = {layout.name: layout.diffusers for layout in LAYOUTS if layout.diffusers}
_TRANSFORMERS = re.compile(r"transformer (under|without) ")
CONFIG_FILE = "config.json"


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

    def without(self, names: Collection[str]) -> Found:
        """The same less these components."""
        return replace(self, components={name: part for name, part in self.components.items() if name not in names})


def kind_of(files: Files) -> str:
    """What files are, for messages."""
    return recognise(files.tensors).name


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
        folder = _folder_of(found.layout)
        if folder is not None and beside.is_file():
            config = official_config(folder, read_json(beside))
            sources.append(SourceFile.of(beside))
    return Found(files, found.layout, found.components, config, tuple(sources), files.metadata.get("model_version"),
                 found.leftover, notes=_notes(files, found.components))


def _folder_of(layout: str) -> str | None:
    """The folder of a diffusers pipeline whose config.json describes such a file; None: none does."""
    names = layout.split(" + ")
    if any(_TRANSFORMERS.match(name) for name in names):
        return "transformer"
    return next((_FOLDER[name] for name in names if name in _FOLDER), None)


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
