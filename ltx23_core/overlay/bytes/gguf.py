"""Reads the header of a GGUF file: the transformer, or Gemma with llama.cpp's names (spec/09 §2.8, §2.9).

The result is the same `Header` that a safetensors file gives, with ggml types as dtypes, so that everything behind
it (layouts, checks, manifest, reading) knows nothing of GGUF. The reader of the ``gguf`` package is not used: it
takes ten seconds for Gemma's header, and damaged files end in IndexError. Tests compare with that package.
"""
from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from ...errors import OverlayError
from .foreign import AGAIN
from .ggml import READABLE, TYPES, ggml_ref, is_quantised, plus_one, row_bytes
from .header import MAX_NAMES, Header, is_name
from .source import AnyRef, SourceFile, TensorRef, stat_file

MAGIC = b"GGUF"
MAX_HEADER = 64 << 20  # Gemma's, with its tokenizer, has 8 MB
MAX_ENTRIES = 100_000  # values, and tensors; LTX-2.3 has 6000 tensors
MAX_ITEMS = 4_000_000  # of all arrays together; Gemma has three for each of 262 144 tokens
MAX_DEPTH = 4  # of arrays in arrays
FEW = 64  # arrays of up to so many numbers are kept as values (shapes, counts by layer)
GEMMA = "gemma3"
TOKENIZER = "spiece_model"  # as in ComfyUI's files of Gemma (`layout.TOKENIZER`)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# llama.cpp's name of a part -> transformers' name (spec/09 §4).
_GEMMA_TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}
_GEMMA_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "post_ffw_norm": "post_feedforward_layernorm",
}
_GEMMA_KEY = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


class _EndOfData(Exception):
    """The header goes on behind the bytes that were read."""


class _Cursor:
    """Reads little-endian values from bytes, one after the other."""

    def __init__(self, data: bytes, few: int = FEW) -> None:
        self.data, self.few, self.at, self.items, self.names = data, few, 0, 0, 0

    def skip(self, count: int) -> int:
        """Step over bytes; gives where they begin."""
        start = self.at
        if count > len(self.data) - start:
            raise _EndOfData
        self.at += count
        return start

    def number(self, code: str) -> Any:  # noqa: ANN401 (int, float or bool)
        return struct.unpack_from("<" + code, self.data, self.skip(struct.calcsize("<" + code)))[0]

    def name(self) -> str:
        """The name of a value or a tensor; together they are bounded as those of a safetensors file are."""
        name = self.text()
        self.names += len(name)
        if self.names > MAX_NAMES:
            raise ValueError(f"its names have more than {MAX_NAMES} characters together")
        if not is_name(name):
            raise ValueError("a key or a tensor has no name")
        return name

    def text(self) -> str:
        length = self.number("Q")
        start = self.skip(length)
        return self.data[start:start + length].decode()

    def value(self, kind: int, depth: int = 0) -> Any:  # noqa: ANN401
        """One value; None for a long array, which is only stepped over."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        if depth > MAX_DEPTH:
            raise ValueError("arrays within arrays")
        kind, count = self.number("I"), self.number("Q")
        if count <= self.few or kind not in _SCALARS:
            self.items += count
            if self.items > MAX_ITEMS:
                raise ValueError(f"arrays of more than {MAX_ITEMS} values")
        if count > self.few:
            self._step_over(kind, count, depth + 1)
            return None
        return [self.value(kind, depth + 1) for _ in range(count)]

    def _step_over(self, kind: int, count: int, depth: int) -> None:
        """So many values of one kind, without making them."""
        if kind in _SCALARS:
            self.skip(count * struct.calcsize("<" + _SCALARS[kind]))
            return
        for _ in range(count):
            if kind == _STRING:
                self.skip(self.number("Q"))
            else:
                self.value(kind, depth)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do; False where it cannot be read."""
    try:
        stat_file(path)
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path, architecture: str = "") -> Header:
    """Read and check the header of a GGUF file.

    Names are transformers' for Gemma (`GEMMA`) and the file's own otherwise; shapes are torch's. A tokenizer among
    the values counts as one tensor more, the whole header's bytes (`gguf_gemma.sentencepiece_model`). Metadata are
    the file's values as text: ``general.architecture``, often ``config``, ``gemma3.*``.

    Args:
        path: the file.
        architecture: that of the first shard, which the others do not repeat.

    Raises:
        OverlayError: not there, truncated, damaged, of another version or model, or with types that cannot be read.
    """
    try:
        size = stat_file(path).st_size
        head = _grow(path, lambda data: _parse(path, data))
    except OSError as error:
        raise OverlayError(f"{path} cannot be read ({error.strerror or error})", "a readable .gguf file",
                           "Check the path and the permissions.") from error
    data, values, entries, base = head
    source = SourceFile.of(path, data)
    _check_ranges(path, entries, base, size)
    tensors = {}
    for name, (kind, shape, offset, count) in entries.items():
        start = base + offset
        ref = TensorRef(path, kind, shape, start, start + count, source)
        tensors[name] = ggml_ref(ref, kind, _original_shape(name, kind, shape, values))
    metadata = {}
    for key, value in values.items():
        if value is not None:
            metadata[key] = str(value)
    if metadata.get("general.architecture", architecture) == GEMMA:
        tensors = _gemma_names(tensors)
        if {"tokenizer.ggml.tokens", "tokenizer.ggml.scores"} <= values.keys():
            tensors[TOKENIZER] = TensorRef(path, "U8", (len(data),), 0, len(data), source)
    return Header(source, tensors, metadata)


def read_values(data: bytes, path: Path) -> dict[str, Any]:
    """All values of a header, long arrays too.

    Args:
        data: the header's bytes.
        path: of the file, for messages.

    Raises:
        OverlayError: damaged.
    """
    try:
        return _parse(path, data, len(data))[1]
    except (_EndOfData, ValueError, OverflowError) as error:
        raise _broken(path, str(error) or "it ends early") from error


_Entry = tuple[str, tuple[int, ...], int, int]  # type, shape, offset, bytes
_Head = tuple[bytes, dict[str, Any], dict[str, _Entry], int]


def _grow(path: Path, parse: Callable[[bytes], _Head]) -> _Head:
    """Parse as many leading bytes as it takes."""
    with open(path, "rb") as file:
        count, data = 1 << 20, b""
        while True:
            data += file.read(count - len(data))
            try:
                return parse(data)
            except _EndOfData:
                if len(data) < count:
                    raise OverlayError(
                        f"{path} is truncated: it has {len(data)} bytes and ends within its header",
                        "the complete file", AGAIN) from None
                if count >= MAX_HEADER:
                    raise _broken(path, f"it is longer than {MAX_HEADER} bytes") from None
                count = min(8 * count, MAX_HEADER)
            except (ValueError, OverflowError) as error:  # UnicodeDecodeError too
                raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> OverlayError:
    found = f"{path} has a damaged header: {why}"
    return OverlayError(found, "a header as the GGUF format defines it", AGAIN)


def _parse(path: Path, data: bytes, few: int = FEW) -> _Head:
    cursor = _Cursor(data, few)
    if data[cursor.skip(4):4] != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        big = version.to_bytes(4, "little") in (b"\0\0\0\2", b"\0\0\0\3")
        what = f"of version {version}"
        if big:
            what = "for big-endian machines"
        raise OverlayError(f"{path} is a GGUF file {what}",
                           "a GGUF file of version 2 or 3", "Download a current GGUF file of this model.")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    if max(tensors, pairs) > MAX_ENTRIES:
        raise ValueError(f"it promises {tensors} tensors and {pairs} values")
    values: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.name()
        if key in values:
            raise ValueError("a key occurs twice")
        values[key] = cursor.value(cursor.number("I"))
    entries: dict[str, _Entry] = {}
    for _ in range(tensors):
        name, entry = _entry(cursor)
        if name in entries:
            raise ValueError(f"{name} occurs twice")
        entries[name] = entry
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
        raise ValueError("general.alignment is out of range")
    return data[:cursor.at], values, entries, -(-cursor.at // alignment) * alignment


def _entry(cursor: _Cursor) -> tuple[str, _Entry]:
    name = cursor.name()
    dimensions = cursor.number("I")
    if dimensions > 8:
        raise ValueError(f"{name[:80]} has {dimensions} dimensions")
    sizes = [cursor.number("Q") for _ in range(dimensions)]
    shape = tuple(reversed(sizes))  # stored with the row's length first
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in TYPES:
        raise ValueError(f"{name} has the unknown type {kind}")
    dtype = TYPES[kind][0]
    try:
        count = prod(shape[:-1]) * row_bytes(dtype, shape[-1] if shape else 1)
    except ValueError as error:
        raise ValueError(f"{name} of type {dtype}: {error}") from error
    if max(offset, count) >= 1 << 62:
        raise ValueError(f"{name} has the shape {list(shape)} at {offset}")
    return name, (dtype, shape, offset, count)


def _original_shape(name: str, kind: str, shape: tuple[int, ...], values: dict[str, Any]) -> tuple[int, ...]:
    """ComfyUI's note of the true shape where the format could not hold it; ignored unless it has as many values."""
    noted = values.get(f"comfy.gguf.orig_shape.{name}")
    if not noted or not isinstance(noted, list):
        return shape
    if not all(type(n) is int and n > 0 for n in noted) or prod(noted) != prod(shape):
        return shape
    if is_quantised(kind) and noted[-1] != shape[-1]:
        return shape
    return tuple(noted)


def _check_ranges(path: Path, entries: dict[str, _Entry], base: int, size: int) -> None:
    """Ranges do not overlap and end with the file; padding between them is allowed."""
    end, last = 0, "the header"
    for name, (_, _, offset, count) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if offset < end:
            raise _broken(path, f"{name} overlaps {last}")
        end, last = offset + count, name
    if base + end > size:
        raise OverlayError(f"{path} is truncated: it has {size} bytes, {base + end - size} are missing",
                           f"{base + end} bytes", AGAIN)


def _gemma_names(tensors: dict[str, AnyRef]) -> dict[str, AnyRef]:
    """llama.cpp's names to transformers'; norms are marked as 1 + w. Keys that are not Gemma's stay as they are."""
    renamed = {}
    for key, ref in tensors.items():
        name = _gemma_name(key)
        if name != key and "norm" in name and isinstance(ref, TensorRef):
            ref = plus_one(ref)
        renamed[name] = ref
    return renamed


def _gemma_name(key: str) -> str:
    top = _GEMMA_TOP.get(key.removesuffix(".weight"))
    if top is not None:
        return f"{top}.weight"
    match = _GEMMA_KEY.fullmatch(key)
    if match is None or match[2] not in _GEMMA_LAYER:
        return key
    return f"layers.{match[1]}.{_GEMMA_LAYER[match[2]]}.weight"


def read_gguf_weights(path: Path, architecture: str = "") -> Header:
    """`read_gguf`, and refuse number formats that cannot be read.

    Raises:
        OverlayError: as `read_gguf` and `check_types`.
    """
    header = read_gguf(path, architecture)
    check_types(header)
    return header


def check_types(header: Header) -> None:
    """Refuse a file with number formats that cannot be read.

    Raises:
        OverlayError: with each such type and how many tensors have it.
    """
    counts = Counter[str]()
    for ref in header.tensors.values():
        if is_quantised(ref.dtype) and ref.dtype not in READABLE:
            counts[ref.dtype] += 1
    if counts:
        found = ", ".join(f"{count} tensors of type {dtype}" for dtype, count in sorted(counts.items()))
        raise OverlayError(f"{header.path} holds GGUF types that cannot be read: {found}",
                           f"a GGUF file of types {', '.join(READABLE)}, BF16, F16, F32",
                           "Download another quantisation of the same model, for example Q4_K_M.")
