"""The overlay: a small JSON manifest that describes a model as byte ranges of the files that the user has.

A manifest is one JSON object. Tensors are compact lists, ``name: [file, dtype, shape, start, end]``, so that the
11 000 tensors of a complete model take about a megabyte; a quantised weight is ``name: {"quant": format, "shape": its
own, "parameters": {...}, "parts": {part: list}}``. ``id`` is the SHA-256 of everything else in canonical form.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import is_leftover, write_whole
from ..errors import OverlayError, reason, word
from ..locks import Busy, locked
from .bytes.endings import TOKENIZER_FILES
from .bytes.header import read_json
from .bytes.source import (
    MAX_DIMENSIONS,
    MAX_HEAD,
    REMAKE,
    SIDE_FILES,
    AnyRef,
    QuantRef,
    SourceFile,
    TensorRef,
    is_count,
    refusing_unreadable,
    tensor_bytes,
)
from .downloads import where_to_get
from .entry import ComponentEntry as ComponentEntry
from .garbage import no_collection
from .packed.formats import QUANT_FORMATS
from .report import component_lines, lack_lines

FORMAT = "ltx23-overlay/1"
VARIANTS = ("dev", "distilled")
_LOCK_SECONDS = 60


@dataclass(frozen=True)
class Overlay:
    """A described model. Made by `materialize` or `Overlay.load`; holds no tensor data.

    Args:
        path: of the manifest.
        id: hash of the content: same id, same bytes of the same files.
        variant: "dev" (guided, 30 steps) or "distilled" (8 steps, unguided).
        model_version: from the checkpoint's metadata ("2.3.0").
        layout: how the checkpoint stores the model.
        sources: the files that it describes.
        components: by name.
        tokenizer: folder of the tokenizer files; None without a text encoder, or if the tokenizer is inside its file
            (component "tokenizer").
        notes: what a user should know of how it came about, as sentences.
    """

    path: Path
    id: str
    variant: str
    model_version: str
    layout: str
    sources: tuple[SourceFile, ...]
    components: dict[str, ComponentEntry]
    tokenizer: Path | None
    notes: tuple[str, ...] = ()

    @classmethod
    @no_collection()
    def load(cls, path: str | os.PathLike[str]) -> Overlay:
        """Read a manifest and make sure that its files are unchanged.

        Raises:
            OverlayError: not a manifest, damaged, of another format, or a source changed.
        """
        path = Path(os.path.abspath(path))
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise OverlayError(f"{path} has the format {word(content.get('format'))}", f"{FORMAT!r}", REMAKE)
        stored = content.pop("id", None)
        try:
            if encode(content)[1] != stored:
                raise OverlayError(
                    f"{path} was edited or damaged: its content does not have the id that it states",
                    "a manifest as materialize wrote it", REMAKE)
            overlay = _from_content(path, stored, content)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise OverlayError(f"{path} is damaged ({reason(error)})",
                               "a manifest as materialize wrote it", REMAKE) from error
        overlay.verify()
        with refusing_unreadable():
            _check_sources(overlay)
        return overlay

    def verify(self, paths: Collection[Path] | None = None) -> None:
        """Compare size, modification time and header hash of sources with those recorded.

        Args:
            paths: of the files that are about to be read; None: all sources. Another file may have changed or gone:
                that is no reason to lose what is being made.

        Raises:
            OverlayError: a source is gone or changed.
        """
        for source in self.sources:
            if paths is None or source.path in paths:
                source.verify()

    def require(self, name: str) -> ComponentEntry:
        """A component that must be there.

        Raises:
            OverlayError: it is not; the error says which file brings it and where that belongs.
        """
        if name in self.components:
            return self.components[name]
        raise OverlayError(f"the overlay has no {name}", *where_to_get(name))

    def report(self, reasons: Sequence[str] = (), folders: Sequence[str] = (),
               unfinished: Mapping[str, str] | None = None) -> str:
        """Lines for people: layout, variant, every component's source, size and number format, and what is missing.

        Args:
            reasons: why these files were taken, if they were chosen.
            folders: what else lies in the model folders, if they were looked at.
            unfinished: missing component -> what to do with the broken file that would bring it.
        """
        lines = [f"LTX {self.model_version} {self.variant}, {self.layout}", *reasons]
        lines += ["", "components:", *component_lines(self.components)]
        lines += ["", *lack_lines(self.components, self.variant, unfinished)]
        if self.notes:
            lines += ["", "notes:"]
            for note in self.notes:
                lines.append(f"  {note}")
        if folders:
            lines += ["", *folders]
        return "\n".join([*lines, "", f"overlay {self.id[:12]}: {self.path}"])


def to_content(variant: str, model_version: str, layout: str, sources: tuple[SourceFile, ...],
               components: Mapping[str, ComponentEntry], tokenizer: Path | None,
               notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest less its id, as JSON values."""
    numbers = {source.path: number for number, source in enumerate(sources)}

    def plain(ref: TensorRef) -> list[Any]:
        return [numbers[ref.path], ref.dtype, list(ref.shape), ref.start, ref.end]

    def entry(ref: AnyRef) -> list[Any] | dict[str, Any]:
        if isinstance(ref, TensorRef):
            return plain(ref)
        return {"quant": ref.format, "shape": list(ref.shape), "parameters": dict(ref.parameters),
                "parts": {name: plain(part) for name, part in ref.parts.items()}}

    parts = {}
    for name, component in components.items():
        tensors = {key: entry(ref) for key, ref in component.tensors.items()}
        parts[name] = {"config": component.config, "tensors": tensors}
    folder = None
    if tokenizer is not None:
        folder = str(tokenizer)
    return {
        "format": FORMAT, "variant": variant, "model_version": model_version, "layout": layout,
        "tokenizer": folder, "notes": list(notes),
        "files": list(map(_file_values, sources)),
        "components": parts,
    }


def _file_values(source: SourceFile) -> dict[str, Any]:
    return {"path": str(source.path), "size": source.size, "mtime_ns": source.mtime_ns,
            "head_bytes": source.head_bytes, "head_sha256": source.head_sha256}


def _source_file(values: Mapping[str, Any]) -> SourceFile:
    source = SourceFile(Path(values["path"]), values["size"], values["mtime_ns"], values["head_bytes"],
                        values["head_sha256"])
    if not source.path.is_absolute():
        raise ValueError("variant or paths")
    if not is_count(source.size) or not is_count(source.head_bytes) or type(source.mtime_ns) is not int:
        raise ValueError("sizes of files")
    if source.head_bytes > min(source.size, MAX_HEAD):
        raise ValueError("sizes of files")
    return source


def _from_content(path: Path, id: str, content: Mapping[str, Any]) -> Overlay:
    """An overlay from the manifest's JSON values; anything out of bounds raises ValueError, KeyError or TypeError."""
    sources = tuple(map(_source_file, content["files"]))
    if content["variant"] not in VARIANTS or not sources:
        raise ValueError("variant or paths")

    def dimensions(shape: list[Any]) -> tuple[int, ...]:
        if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(is_count, shape)):
            raise ValueError("a shape")
        return tuple(shape)

    def plain(entry: list[Any]) -> TensorRef:
        file, dtype, shape, start, end = entry
        if not is_count(file) or not is_count(start) or not is_count(end):
            raise ValueError("a range is out of bounds, or no number")
        source, shape = sources[file], dimensions(shape)
        if not start <= end <= source.size or end - start != tensor_bytes(dtype, shape):
            raise ValueError(f"a range is out of bounds: {entry}")
        return TensorRef(source.path, dtype, shape, start, end, source)

    def tensor(entry: list[Any] | dict[str, Any]) -> AnyRef:
        if isinstance(entry, list):
            return plain(entry)
        parts = {name: plain(part) for name, part in entry["parts"].items()}
        parameters = dict(entry["parameters"])
        described = entry["quant"] in QUANT_FORMATS and "weight" in parts
        if not described or not all(map(_is_parameter, parameters.values())):
            raise ValueError(f"a quantised weight is not described: {entry['quant']}")
        return QuantRef(entry["quant"], dimensions(entry["shape"]), parts, parameters)

    components = {}
    for name, entry in content["components"].items():
        tensors = {}
        for key, values in entry["tensors"].items():
            tensors[key] = tensor(values)
        components[name] = ComponentEntry(dict(entry["config"]), tensors)
    tokenizer = content["tokenizer"]
    if tokenizer is not None:
        tokenizer = Path(tokenizer)
    return Overlay(
        path, id, content["variant"],
        model_version=str(content["model_version"]), layout=str(content["layout"]),
        sources=sources, components=components, tokenizer=tokenizer,
        notes=tuple(map(str, content.get("notes", ()))))


def _is_parameter(value: object) -> bool:
    """Whether a value may stand in the parameters of a quantised weight."""
    return isinstance(value, bool | int | float | str)


def _check_sources(overlay: Overlay) -> None:
    """Tensors come from the data of weight files, and all other files are those that an overlay may name.

    The path, size, time and hash of a file that everyone has (of a Linux distribution, say) can be written by anyone
    into a manifest; what kind of file it is cannot.
    """
    heads: dict[Path, int] = {}  # of weight files: where their data begin
    for source in overlay.sources:
        head = _data_start(source)
        if head is not None:
            heads[source.path] = head
        elif source.path.name not in SIDE_FILES:
            raise _foreign(overlay, f"{source.path}, which is no weight file")
    for entry in overlay.components.values():
        for ref in entry.tensors.values():
            for part in _ranges(ref):
                if part.start < heads.get(part.path, part.end + 1):
                    place = f"bytes {part.start} to {part.end} of {part.path}"
                    raise _foreign(overlay, f"{place}, which are no tensor")
    folder = overlay.tokenizer
    if folder is None:
        return
    for source in overlay.sources:
        if source.path.parent == folder and source.path.name in TOKENIZER_FILES:
            return
    raise _foreign(overlay, f"the tokenizer in {folder}, without its files")


def _data_start(source: SourceFile) -> int | None:
    """Where the data of a weight file can begin at the earliest; None: it is no weight file."""
    with open(source.path, "rb") as file:
        start = file.read(9)
    if start[:4] == b"GGUF":
        return 0
    if start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") == source.head_bytes:
        return source.head_bytes
    return None


def _ranges(ref: AnyRef) -> Iterable[TensorRef]:
    if isinstance(ref, QuantRef):
        return ref.parts.values()
    return (ref,)


def _foreign(overlay: Overlay, what: str) -> OverlayError:
    return OverlayError(f"the manifest {overlay.path} names {what}",
                        "weight files, their config.json and a tokenizer",
                        "Do not use this manifest; if it is your own: " + REMAKE)


def encode(content: Mapping[str, Any]) -> tuple[str, str]:
    """The manifest's text, and its id: the SHA-256 of the canonical form of everything else."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    id = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"id":"{id}",{text[1:]}', id


class NotWritable(OverlayError):
    """The folder of a manifest takes no file; the same overlay may be written into another one."""


def remove_stale(path: Path) -> None:
    """Delete the temporary files of writers that were killed, which nobody else would do."""
    for name in os.listdir(path.parent):
        if is_leftover(name, path.name):
            with contextlib.suppress(OSError):
                if time.time() - (path.parent / name).stat().st_mtime > _LOCK_SECONDS:
                    (path.parent / name).unlink()


def _tidy(path: Path, lock: Path) -> None:
    """Delete what killed writers of a manifest left, their lock too; nothing where somebody writes or it cannot be."""
    with contextlib.suppress(OSError, Busy):
        if any(name.startswith(f".{path.name}.") for name in os.listdir(path.parent)):
            with locked(lock, 0):
                remove_stale(path)


def _holds(path: Path, text: str) -> bool:
    """Whether a file has this content already."""
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def save(path: Path, text: str) -> None:
    """Write a manifest, all of it or nothing: temporary file, fsync, rename, one writer at a time.

    Raises:
        OverlayError: the folder cannot be written, or another process holds the lock for a minute.
    """
    lock = path.with_name(f".{path.name}.lock")
    if _holds(path, text):  # so that a read-only folder with the same manifest serves
        _tidy(path, lock)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, _LOCK_SECONDS):
            remove_stale(path)
            write_whole(path, text)
    except Busy as error:
        raise OverlayError(f"another process has been writing {path} for {_LOCK_SECONDS} s",
                           "a free manifest",
                           f"Wait for it, or delete {error.path} if none is running.") from error
    except OSError as error:
        raise NotWritable(f"{path} cannot be written ({error.strerror or error})",
                          "a folder with write permission and free space",
                          "Give another output path: materialize(..., output=...).") from error
