"""Reads safetensors headers and JSON side files. Every length and offset is checked before it is believed."""
from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...errors import OverlayError, word
from .foreign import AGAIN, foreign_of, pointed_size
from .source import DTYPE_BITS, MAX_DIMENSIONS, SourceFile, TensorRef, is_count, stat_file, tensor_bytes

MAX_HEADER = 100_000_000  # the limit of the safetensors library itself
MAX_JSON = 32 << 20  # of a header or a file of JSON that is parsed; LTX-2.3 has a header of 0.8 MB
MAX_BRACKETS, MAX_COMMAS = 300_000, 1_000_000  # 100 000 tensors; LTX-2.3 has 6000. Bounds memory and time
MAX_NAME = 1024
MAX_TENSORS = 50_000
MAX_NAMES = 4 << 20  # characters of all names together; LTX-2.3 has 0.4 million. Bounds what recognition searches


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds, without any tensor data.

    Args:
        source: the file.
        tensors: name -> byte range, in file order.
        metadata: the text entries of ``__metadata__``.
    """

    source: SourceFile
    tensors: dict[str, TensorRef]
    metadata: dict[str, str]

    @property
    def path(self) -> Path:
        """The file's absolute path."""
        return self.source.path


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        OverlayError: not there, not a safetensors file (and what it is instead), truncated, or inconsistent.
    """
    try:
        size = stat_file(path).st_size
        with open(path, "rb") as file:
            head = header_bytes(path, file, size)
    except OSError as error:
        raise OverlayError(f"{path} cannot be read ({error.strerror or error})",
                           "a readable .safetensors file",
                           "Check the path and the permissions.") from error
    return header_of(SourceFile.of(path, head), head, size)


class Readable(Protocol):
    """What a header is read from."""

    def read(self, count: int, /) -> bytes:
        """So many bytes, fewer where the file ends."""


def header_bytes(path: Path, file: Readable, size: int) -> bytes:
    """The header of a file that was just opened, with the eight bytes before it.

    Args:
        path: of the file, for messages.
        file: at its beginning.
        size: bytes of the file.

    Raises:
        OverlayError: not a safetensors file (and what it is instead), or its header is cut off.
    """
    start = file.read(512)
    length = _header_length(path, start, size)
    return start[:8 + length] + file.read(max(0, 8 + length - len(start)))


def header_of(source: SourceFile, head: bytes, size: int) -> Header:
    """Check and parse what `header_bytes` read.

    Args:
        source: the file.
        head: its header, with the eight bytes before it.
        size: bytes of the file.

    Raises:
        OverlayError: truncated, damaged or inconsistent.
    """
    path = source.path
    table = _parse(path, memoryview(head)[8:])
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its metadata is not a table of texts")
    check_names(path, table)
    tensors = {name: _tensor(source, name, entry, len(head)) for name, entry in table.items()}
    _check_ranges(path, tensors, len(head), size)
    return Header(source, tensors, metadata)


def read_small(refs: Mapping[str, TensorRef], limit: int) -> dict[str, bytes]:
    """Content of small tensors that describe others; of a larger one only the beginning.

    Args:
        refs: name -> where it is.
        limit: bytes of one.

    Raises:
        OverlayError: a file cannot be read.
    """
    content: dict[str, bytes] = {}
    by_file: dict[Path, list[tuple[int, int, str]]] = {}
    for name, ref in refs.items():
        by_file.setdefault(ref.path, []).append((ref.start, min(ref.size_bytes, limit), name))
    for path, places in by_file.items():
        try:
            with open(path, "rb", buffering=1 << 16) as file:
                for start, count, name in sorted(places):
                    file.seek(start)
                    content[name] = file.read(count)
        except OSError as error:
            raise OverlayError(f"{path} cannot be read ({error.strerror or error})",
                               "a readable .safetensors file",
                               "Check the path and the permissions.") from error
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 32 MB.

    Raises:
        OverlayError: missing, too large, not JSON or not an object.
    """
    try:
        stat_file(path)
        with open(path, "rb") as file:
            # Of the file that was opened: another may take its place meanwhile.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, MAX_JSON) + 1)
        value = None
        if len(data) <= MAX_JSON:
            value = parse_json(data.decode(json.detect_encoding(data)))
    except OSError as error:
        raise OverlayError(f"{path} cannot be read ({error.strerror or error})", "a readable JSON file",
                           "Check the path and the permissions.") from error
    except ValueError as error:
        raise OverlayError(f"{path} is not JSON ({error})", "a JSON file", AGAIN) from error
    if not isinstance(value, dict):
        raise OverlayError(f"{path} is not a JSON object of at most {MAX_JSON} bytes", "a JSON object", AGAIN)
    return value


def parse_json(text: str) -> Any:  # noqa: ANN401 (any JSON)
    """`json.loads` for the text of strangers: no key twice, of bounded depth and number of parts.

    Raises:
        ValueError: not JSON, or not such JSON.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"it has {len(text)} characters, more than {MAX_JSON}")
    if text.count("[") + text.count("{") > MAX_BRACKETS or text.count(",") > MAX_COMMAS:
        raise ValueError(f"it has more than {MAX_BRACKETS} lists and tables or {MAX_COMMAS} values")
    try:
        return json.loads(text, object_pairs_hook=_table)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _header_length(path: Path, start: bytes, size: int) -> int:
    """Length of the JSON header, after making sure that this is a safetensors file at all."""
    if not size:
        raise OverlayError(f"{path} is empty", "a .safetensors file", AGAIN)
    length = int.from_bytes(start[:8], "little")
    if len(start) > 8 and start[8:9] == b"{" and 2 <= length <= MAX_HEADER:
        if length > size - 8:
            raise OverlayError(f"{path} is truncated: its header alone needs {8 + length} bytes, the file has {size}",
                               "the complete file", AGAIN)
        return length
    foreign = foreign_of(start)
    if foreign is not None:
        pointed = pointed_size(start)
        more = ""
        if pointed is not None:
            more = f" (the real file has {pointed} bytes)"
        raise OverlayError(f"{path} ({size} bytes) is {foreign.name}{more}",
                           "a .safetensors file", foreign.fix)
    if size < 4096 and start.isascii() and b"\0" not in start:
        raise OverlayError(f"{path} is a short text of {size} bytes, not the weights",
                           "a .safetensors file", AGAIN)
    raise OverlayError(f"{path} is not a safetensors file", "a .safetensors file", AGAIN)


def _broken(path: Path, why: str) -> OverlayError:
    return OverlayError(f"{path} has a damaged header: {why}",
                        "a header as the safetensors format defines it", AGAIN)


def _parse(path: Path, text: memoryview) -> dict[str, Any]:
    try:
        table = parse_json(str(text, "utf-8"))
    except ValueError as error:
        raise _broken(path, str(error)) from error
    if not isinstance(table, dict):
        raise _broken(path, "it is not a JSON object")
    return table


def _tensor(source: SourceFile, name: str, entry: object, base: int) -> TensorRef:
    """One entry of the header as an absolute range, or an error that says what is wrong with it."""
    path = source.path
    if not is_name(name):
        raise _broken(path, f"a tensor has no name of at most {MAX_NAME} printable characters")
    if not isinstance(entry, dict):
        raise _broken(path, f"{name} is not described by an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _broken(path, f"{name} has the unknown dtype {word(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(is_count, shape)):
        raise _broken(path, f"{name} has a shape that is none")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
        raise _broken(path, f"{name} has offsets that are none")
    needed = tensor_bytes(dtype, tuple(shape))
    if offsets[1] - offsets[0] != needed:
        raise _broken(path, f"{name} of {dtype} {shape} needs {needed} bytes, its offsets {offsets} give "
                            f"{offsets[1] - offsets[0]}")
    return TensorRef(path, dtype, tuple(shape), base + offsets[0], base + offsets[1], source)


def check_names(path: Path, names: Collection[str]) -> None:
    """Refuse more names than any model has, before anyone searches them.

    Raises:
        OverlayError: more than `MAX_TENSORS`, or more than `MAX_NAMES` characters together.
    """
    total = sum(map(len, names))
    if len(names) > MAX_TENSORS:
        raise _broken(path, f"it has {len(names)} tensors, more than {MAX_TENSORS}")
    if total > MAX_NAMES:
        raise _broken(path, f"its names have {total} characters together, more than {MAX_NAMES}")


def is_name(name: str) -> bool:
    """Whether this can be a tensor's name: short, so that patterns are searched in no time, and printable."""
    return len(name) <= MAX_NAME and name.isprintable()


def _check_ranges(path: Path, tensors: dict[str, TensorRef], base: int, size: int) -> None:
    """Ranges must follow each other without gap or overlap (so no name occurs twice) up to the end of the file."""
    end, last = base, "the header"
    for name, ref in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if ref.start != end:
            if ref.start < end:
                raise _broken(path, f"{name} overlaps {last}")
            raise _broken(path, f"a gap between {last} and {name}")
        end, last = ref.end, name
    if end > size:
        raise OverlayError(f"{path} is truncated: it has {size} bytes, {end - size} are missing", f"{end} bytes",
                           AGAIN)
    if end < size:
        raise OverlayError(f"{path} has {size - end} bytes after its last tensor", f"{end} bytes",
                           "Download the file again; a resumed download may have written part of it twice.")
