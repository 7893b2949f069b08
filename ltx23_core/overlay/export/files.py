"""What an export writes, before a byte is written: files as a head and an ordered list of ranges of the sources.

Tensors follow each other by element size, then as they lie in the sources: so every tensor is aligned, as readers
need it, and neighbours in the source stay neighbours and are copied as one range.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ..bytes.endings import INDEX, shard_name
from ..bytes.source import DTYPE_BITS, AnyRef, QuantRef, SourceFile, TensorRef
from ..manifest import Overlay
from ..names.architecture import PLAIN_DTYPES
from .packed import CARRIED, unpacked

ALIGN = 4096  # blocks that file systems can share between files
_HEADER_ALIGN = 8  # as the safetensors library pads


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a source file."""

    source: SourceFile
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def identity(self) -> list[str | int]:
        """Stands for the content of these bytes."""
        source = self.source
        return [str(source.path), source.size, source.mtime_ns, source.head_sha256, self.start, self.end]


@dataclass(frozen=True)
class Made:
    """Bytes that are made of a tensor while the file is written: the parts of a weight, one behind the other.

    Args:
        ref: the weight, with its origin; parts in the order of the file.
        padding: zeros behind them.
    """

    ref: QuantRef
    padding: int = 0
    start = 0

    @cached_property
    def source(self) -> SourceFile:
        """The file of the origin."""
        return self.ref.source or SourceFile.of(self.ref.path)

    @cached_property
    def size(self) -> int:
        """Bytes."""
        size = self.padding
        for part in self.ref.parts.values():
            size += part.size_bytes
        return size

    @property
    def end(self) -> int:
        """Bytes, as of a range that begins at 0."""
        return self.size

    @property
    def identity(self) -> list[object]:
        """Stands for the content of these bytes."""
        told: list[object] = [Range(self.source, self.ref.start, self.ref.origin.end).identity, self.ref.format]
        for name, part in self.ref.parts.items():
            told += [name, part.dtype, list(part.shape)]
        return [*told, self.padding]


@dataclass(frozen=True)
class OutputFile:
    """One file to write.

    Args:
        name: path in the folder of the export, with slashes.
        head: its first bytes.
        ranges: what follows them.
    """

    name: str
    head: bytes
    ranges: tuple[Range | Made, ...] = ()

    @cached_property
    def size(self) -> int:
        """Bytes."""
        size = len(self.head)
        for part in self.ranges:
            size += part.size
        return size

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal content, by the sources' identity."""
        sources = [part.identity for part in self.ranges]
        return hashlib.sha256(self.head + json.dumps([self.name, sources]).encode()).hexdigest()

    def placed(self) -> Iterator[tuple[int, Range | Made]]:
        """The ranges, each with its position in the file."""
        position = len(self.head)
        for part in self.ranges:
            yield position, part
            position += part.size


def json_file(name: str, value: Mapping[str, Any]) -> OutputFile:
    """A small file of JSON."""
    return OutputFile(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def whole_file(name: str, path: Path) -> OutputFile:
    """A source file as it is."""
    try:
        source = SourceFile.of(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error.strerror or error})", "a file of the text "
                                                                                "encoder's folder",
                          "Put the file back, or make the overlay again.") from error
    return OutputFile(name, b"", (Range(source, 0, source.size),))


def weights_file(name: str, tensors: Mapping[str, AnyRef], metadata: Mapping[str, str]) -> OutputFile:
    """A safetensors file.

    Args:
        name: of the file.
        tensors: name -> where its bytes are.
        metadata: for the header.
    """
    plain, told = unpacked(tensors, metadata)
    table: dict[str, Any] = {}
    if told:
        table["__metadata__"] = told
    ranges: list[Range | Made] = []
    end, element = 0, 1
    for group, made in _groups(tensors, plain):
        for key, ref in group:
            start, end = end, end + ref.size_bytes
            element = max(element, DTYPE_BITS[ref.dtype] // 8)
            table[key] = {"dtype": ref.dtype, "shape": list(ref.shape), "data_offsets": [start, end]}
        if made is not None:
            ranges.append(made)
        else:
            _add_range(ranges, group[0][1])
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * _padding(8 + len(text), ranges, element)
    return OutputFile(name, len(text).to_bytes(8, "little") + text, tuple(ranges))


def _add_range(ranges: list[Range | Made], ref: TensorRef) -> None:
    """The bytes of a tensor behind what is there; joined to the last range where they follow it in the source."""
    last = ranges[-1] if ranges else None
    if isinstance(last, Range) and last.source.path == ref.path and last.end == ref.start:
        ranges[-1] = Range(last.source, last.start, ref.end)
    elif ref.size_bytes:
        ranges.append(Range(ref.source or SourceFile.of(ref.path), ref.start, ref.end))


def _groups(tensors: Mapping[str, AnyRef],
            plain: Mapping[str, TensorRef]) -> list[tuple[list[tuple[str, TensorRef]], Made | None]]:
    """Tensors in the order of the file; the parts of a made weight lie together, so that it is read once."""
    left, groups = dict(plain), []
    for key, ref in tensors.items():
        if isinstance(ref, QuantRef) and ref.origin is not None:
            layer, parts, group = key.removesuffix("weight"), {}, []
            for name in sorted(ref.parts, key=lambda name: -DTYPE_BITS[ref.parts[name].dtype]):
                parts[name] = ref.parts[name]
                group.append((layer + name, left.pop(layer + name)))
            groups.append((group, Made(replace(ref, parts=parts))))
    for key, ref in left.items():
        groups.append(([(key, ref)], None))

    def place(group: tuple[list[tuple[str, TensorRef]], Made | None]) -> tuple[int, str, int, str]:
        [(key, first), *_], made = group
        start = first.start if made is None else made.ref.start
        return -DTYPE_BITS[first.dtype], str(first.path), start, key

    return sorted(groups, key=place)


def sharded(folder: str, stem: str, tensors: Mapping[str, TensorRef], limit: int) -> list[OutputFile]:
    """The weights of a folder as diffusers names them: one file, or several with an index.

    Args:
        folder: in the export.
        stem: of the file names.
        tensors: name -> where its bytes are.
        limit: bytes of tensors in one file, unless a single tensor is larger.
    """
    shards: list[dict[str, TensorRef]] = [{}]
    size = total = 0
    for key, ref in in_order(tensors):
        if shards[-1] and size + ref.size_bytes > limit:
            shards.append({})
            size = 0
        shards[-1][key] = ref
        size += ref.size_bytes
        total += ref.size_bytes
    if len(shards) == 1:
        return [weights_file(f"{folder}/{stem}.safetensors", shards[0], {"format": "pt"})]
    files, places = [], {}
    for number, shard in enumerate(shards, 1):
        name = shard_name(stem, number, len(shards))
        files.append(weights_file(f"{folder}/{name}", shard, {"format": "pt"}))
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    files.append(json_file(f"{folder}/{stem}{INDEX}", index))
    return files


def stored_tensors(overlay: Overlay, component: str, quantised: bool = True) -> dict[str, AnyRef]:
    """The tensors of a component, by their names in the overlay.

    Args:
        overlay: that has it.
        component: its name.
        quantised: whether the layout can hold quantised weights of safetensors files.

    Raises:
        OverlayError: the overlay does not have the component.
        ExportError: its weights are quantised in a way that the layout cannot hold.
    """
    tensors = overlay.require(component).tensors
    allowed = (*PLAIN_DTYPES, *(CARRIED if quantised else ()))
    for name, ref in tensors.items():
        is_made = isinstance(ref, QuantRef) and ref.origin is not None
        if ref.dtype not in allowed and not is_made:
            raise ExportError(f"{component} has quantised weights ({name} is {ref.dtype})", ", ".join(allowed),
                              "Export as monolith or split, or an overlay of the bf16 "
                              "files." if ref.dtype in CARRIED
                              else "Export an overlay of the bf16 files; GGUF files are used as they are.")
    return tensors


def in_order(tensors: Mapping[str, TensorRef]) -> list[tuple[str, TensorRef]]:
    """Largest elements first, then as the sources have them."""
    return sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[item[1].dtype], str(item[1].path), item[1].start,
                                                     item[0]))


def joined(*parts: Mapping[str, AnyRef]) -> dict[str, AnyRef]:
    """The tensors of several components that go into one file.

    Raises:
        ExportError: two have the same name (statistics of a VAE's halves) and different values.
    """
    tensors: dict[str, AnyRef] = {}
    for part in parts:
        for name, ref in part.items():
            other = tensors.setdefault(name, ref)
            if other != ref and (isinstance(ref, QuantRef) or _bytes(other) != _bytes(ref)):
                raise ExportError(f"{name} is not the same in {other.path} and {ref.path}",
                                  "encoder and decoder of one VAE", "Take both from the same file.")
    return tensors


def _bytes(ref: AnyRef) -> tuple[str, tuple[int, ...], bytes]:
    """Content of a small tensor."""
    with open(ref.path, "rb") as file:
        file.seek(ref.start, os.SEEK_SET)
        return ref.dtype, ref.shape, file.read(ref.size_bytes)


def _padding(length: int, ranges: list[Range | Made], element: int) -> int:
    """Spaces behind a header, so that tensors are aligned and, where possible, the largest range can be shared.

    File systems with reflinks share whole blocks, so source and target must lie equally in theirs.

    Args:
        length: of the header.
        ranges: that follow it.
        element: bytes of the largest type of the tensors.
    """
    least = -length % _HEADER_ALIGN
    if not ranges:
        return least
    sizes = [part.size for part in ranges]
    largest = sizes.index(max(sizes))
    wanted = (ranges[largest].start - sum(sizes[:largest]) - length) % ALIGN
    return wanted if (length + wanted) % max(element, 1) == 0 else least
