"""Folders of any layout: diffusers pipelines, split files, what sglang writes (spec/09 §7). By content, not by name."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import OverlayError
from ..bytes.endings import SGLANG_MARKER, TOKENIZERS, is_weights
from ..bytes.header import read_json
from ..bytes.sets import Files, read_files, weight_sets
from ..names.recognise import recognise
from .found import Found, describe, kind_of
from .text_encoder import find_text_encoder

MAX_DEPTH, MAX_FILES = 3, 300
SGLANG_ENCODER = "ltx23_image_encoder"


def find(path: Path, tokenizers: Sequence[Path] = ()) -> list[Found]:
    """Everything that a file or a folder brings.

    Args:
        path: of the file or folder.
        tokenizers: folders that may have a tokenizer, for a text encoder that has none.

    Raises:
        OverlayError: nothing of LTX-2.3, damaged, or two files of one folder bring the same.
    """
    if path.is_dir():
        return _find_in_folder(path, tokenizers)
    files = read_files(path)
    found = _describe(files, tokenizers)
    if found is None:
        raise unusable(files)
    return [found]


def unusable(files: Files) -> OverlayError:
    """The error for a file that is no part of LTX-2.3, saying what it is instead."""
    kind = recognise(files.tensors)
    return OverlayError(f"{files.path} is {kind.name}", "an LTX-2.3 checkpoint, or a part of one", kind.fix)


def _describe(files: Files, tokenizers: Sequence[Path]) -> Found | None:
    found = describe(files)
    if found is None or "text_encoder" not in found.components:
        return found
    encoder = find_text_encoder(files.path, tokenizers)
    return replace(encoder, layout=found.layout, version=found.version, leftover=found.leftover, notes=found.notes,
                   components=found.components | encoder.components, config=found.config | encoder.config)


def _folders(root: Path, depth: int = 0) -> Iterator[Path]:
    yield root
    if depth < MAX_DEPTH:
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield from _folders(path, depth + 1)


def _find_in_folder(root: Path, elsewhere: Sequence[Path]) -> list[Found]:
    try:
        folders = list(_folders(root))
        here = [folder for folder in folders if any((folder / name).is_file() for name in TOKENIZERS)]
        count = sum(is_weights(name) for folder in folders for name in os.listdir(folder))
        if count > MAX_FILES:
            raise OverlayError(f"{root} has {count} weight files", f"the folder of one model (at most {MAX_FILES})",
                               "Give the file or the folder of the model itself.")
        found, other = [], []
        for files in (files for folder in folders for files in weight_sets(folder)):
            part = _describe(files, (*here, *elsewhere))
            found += [part] if part else []
            other += [] if part else [files]
    except OSError as error:
        raise OverlayError(f"{root} cannot be read ({error.strerror or error})", "a readable folder",
                           "Check the path and the permissions.") from error
    if (root / SGLANG_MARKER).is_file():
        found = _without_20(root, found)
    if not found and other:
        raise unusable(other[0])
    if not found and not here:
        raise OverlayError(f"{root} has no weight files", "a folder with the model's weights",
                           "Give the folder of a diffusers pipeline, or the model's file.")
    found = _without_copies(found)
    _check_single(root, found)
    if found and other:
        left = ", ".join(f"{files.path.name} ({kind_of(files)})" for files in other)
        found[0] = replace(found[0], notes=(*found[0].notes, f"not used of {root.name}: {left}"))
    return found


def _without_copies(found: list[Found]) -> list[Found]:
    """Text encoders without the projection that was saved with them, where another file of the folder brings it."""
    brought = {name for part in found if "text_encoder" not in part.components for name in part.components}
    return [part.without(brought) if "text_encoder" in part.components else part for part in found]


def _check_single(root: Path, found: list[Found]) -> None:
    """Within one folder no order says which file counts."""
    seen: dict[str, Found] = {}
    for part in found:
        for name in part.components:
            if name in seen:
                raise OverlayError(f"{root} has two files with the component {name}: {seen[name].path.name} and "
                                   f"{part.path.name}", "one of each",
                                   "Give the file that you want instead of the folder.")
            seen[name] = part


def _without_20(root: Path, found: list[Found]) -> list[Found]:
    """sglang takes the video encoder and the audio VAE from LTX-2.0 (spec/01 §8): use the source, or say so."""
    marker = read_json(root / SGLANG_MARKER)
    source = _sglang_source(marker.get("source_dir"))
    stale = {"video_encoder", "audio_encoder", "audio_decoder"}
    kept = []
    for part in found:
        drop = stale if source else {"video_encoder"} if part.files.folder.name != SGLANG_ENCODER else set()
        components = {name: tensors for name, tensors in part.components.items() if name not in drop}
        if components:
            kept.append(replace(part, components=components))
    if source is not None:
        taken = {name: tensors for name, tensors in source.components.items() if name in stale}
        note = f"video encoder and audio VAE are from {source.path}: sglang's folder has those of LTX-2.0"
        return [*kept, replace(source, components=taken, notes=(note,))]
    note = "the audio VAE of this sglang folder is that of LTX-2.0; add the source checkpoint to replace it"
    return [replace(kept[0], notes=(note,)), *kept[1:]] if kept else kept


def _sglang_source(folder: object) -> Found | None:
    """The monolith that a materialised folder was made of, if it is still there."""
    if not isinstance(folder, str) or not os.path.isdir(folder):
        return None
    for path in sorted(Path(folder).glob("ltx-2.3*.safetensors")):
        try:
            found = describe(read_files(Path(os.path.abspath(path))))
        except OverlayError:
            continue
        if found is not None and {"audio_decoder", "video_encoder"} <= set(found.components):
            return found
    return None
