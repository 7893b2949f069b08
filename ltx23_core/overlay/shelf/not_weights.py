"""Files that hold no weights, or not all of them: what they are instead, by their leading bytes."""
from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from ...errors import OverlayError
from ..bytes.endings import UNFINISHED
from ..bytes.foreign import FOREIGN
from ..bytes.gguf import MAGIC
from ..bytes.header import MAX_HEADER, Header, is_name, parse_json
from ..bytes.source import DTYPE_BITS, SourceFile, TensorRef, gigabytes, is_count
from ..names.kinds import USE_OFFICIAL
from .facts import Facts, facts_of
from .identity import AGAIN, Identity

START_BYTES = 512
Named = Callable[[Facts], Identity]


def absent(path: Path, error: OSError) -> Identity:
    """A file that cannot be asked or opened: a link to nothing, not there, or not allowed."""
    with contextlib.suppress(OSError):
        return Identity(path, "broken_link", f"link to {Path(os.readlink(path)).name}, which is not there",
                        fix="Download the file again, or delete the link.")
    if isinstance(error, FileNotFoundError):
        return Identity(path, "absent", "not there", fix="Check the path.")
    return Identity(path, "unreadable", f"cannot be read ({error.strerror or error})", fix="Check the permissions.")


def no_weights(path: Path, size: int, error: Exception, named: Named) -> Identity:
    """A file whose header cannot be read: what it is instead.

    Args:
        path: of the file.
        size: its bytes.
        error: why its header cannot be read.
        named: makes the identity of a file of which the header could be read after all.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError as problem:
        return absent(path, problem)
    how_long = gigabytes(size)
    if not size:
        return Identity(path, "empty", "empty file: the download did not begin", fix=AGAIN)
    if path.suffix.lower() in UNFINISHED:
        return Identity(path, "unfinished", f"unfinished download, {how_long} so far", size_bytes=size,
                        fix="Let the download finish; the file then loses the ending of its name.")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= MAX_HEADER:
        return _cut_or_damaged(path, size, length, error, named)
    if start.startswith(MAGIC):
        return _gguf_problem(path, size, error)
    for foreign in FOREIGN:
        if foreign.start.match(start):
            suffix = path.suffix or "a weight file"
            sentence = foreign.sentence.format(size=how_long, real=_real_size(start), suffix=suffix)
            return Identity(path, foreign.kind, sentence, size_bytes=size, fix=foreign.fix)
    if size < 4096 and start.isascii() and b"\0" not in start:
        return Identity(path, "text", f"short text of {how_long}, no weights", size_bytes=size, fix=AGAIN)
    return Identity(path, "unknown", f"no weight file, {how_long}", size_bytes=size, fix=USE_OFFICIAL)


def _real_size(start: bytes) -> str:
    """What a pointer of git's LFS says of the file that it stands for."""
    pointed = re.search(rb"\nsize (\d{1,20})", start)
    if pointed is None:
        return ""
    return f" (the real file has {gigabytes(int(pointed[1]))})"


def _gguf_problem(path: Path, size: int, error: Exception) -> Identity:
    found, fix = str(error), AGAIN
    if isinstance(error, OverlayError):
        found, fix = error.found, error.fix
    what = found.replace(str(path), "", 1).strip().removeprefix("is ")
    kind = "damaged"
    if "truncated" in what:
        kind = "truncated"
    sentence = f"GGUF file, {gigabytes(size)}, {what.removeprefix('a GGUF file ')}"
    return Identity(path, kind, sentence, size_bytes=size, fix=fix)


def _cut_or_damaged(path: Path, size: int, length: int, error: Exception, named: Named) -> Identity:
    """A safetensors file that ends too early (named by its header as far as possible), or with a damaged header."""
    if length > size - 8:
        sentence = f"truncated: its header alone has {gigabytes(8 + length)}, file has {gigabytes(size)}"
        return Identity(path, "truncated", sentence, size_bytes=size, fix="Continue the download, or repeat it.")
    promised, header = _lenient(path, length)
    if promised > size or "after its last tensor" in str(error):
        return named(Facts(**{**vars(facts_of(header)), "end": promised}))
    found = f"{type(error).__name__}: {error}"
    if isinstance(error, OverlayError):
        found = error.found
    why = found.replace(str(path), "", 1).strip().removeprefix("has ")
    return Identity(path, "damaged", f"safetensors file, {gigabytes(size)}, with {why}", size_bytes=size, fix=AGAIN)


def _lenient(path: Path, length: int) -> tuple[int, Header]:
    """Where the last tensor of a header ends, and all tensors that are described properly."""
    with open(path, "rb") as file:
        data = file.read(8 + length)
    try:
        table = parse_json(str(memoryview(data)[8:], "utf-8"))
    except ValueError:
        table = {}
    if not isinstance(table, dict):
        table = {}
    end, tensors = 0, {}
    for name, entry in table.items():
        if is_name(name) and isinstance(entry, dict) and _is_tensor(entry):
            first, last = entry["data_offsets"]
            end = max(end, last)
            place = 8 + length + first, 8 + length + last
            tensors[name] = TensorRef(path, entry["dtype"], tuple(entry["shape"]), *place)
    return 8 + length + end, Header(SourceFile.of(path, data), tensors, {})


def _is_tensor(entry: dict[str, object]) -> bool:
    """Whether an entry of a header describes a tensor properly."""
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        return False
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(map(is_count, (*shape, *offsets)))
