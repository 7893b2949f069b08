"""What an overlay knows of the user's files: which file, which bytes, and how to tell that a file has changed."""
from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ...errors import OverlayError
from .endings import TOKENIZER_FILES

# Bits of one element, by safetensors dtype name.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}
MAX_DIMENSIONS = 64
MAX_HEAD = 1 << 27  # of what is hashed; more than any header may have
SIDE_FILES = ("config.json", *TOKENIZER_FILES)  # all that an overlay may name besides weight files
ORIGIN = "origin"  # name of what a quantised weight is made of
HEAD_BYTES = 1 << 20  # of a file without a safetensors header (tokenizer, JSON): what its hash covers
REMAKE = "Make the overlay again: run the Overlay node once more, or call materialize(...)."


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a dense tensor; sub-byte types are rounded up to whole bytes."""
    return (prod(shape) * DTYPE_BITS[dtype] + 7) // 8


@dataclass(frozen=True)
class SourceFile:
    """One of the user's files, as it was when the overlay was made.

    Args:
        path: absolute path; symbolic links are kept, since their names say what the file is.
        size: bytes.
        mtime_ns: modification time.
        head_bytes: how many leading bytes the hash covers: the whole header of a safetensors file.
        head_sha256: hexadecimal hash of these bytes.
    """

    path: Path
    size: int
    mtime_ns: int
    head_bytes: int
    head_sha256: str

    @classmethod
    def of(cls, path: Path, head: bytes | None = None) -> SourceFile:
        """Describe a file; ``head`` is its header if that was already read.

        Raises:
            OverlayError: it cannot be read.
        """
        with refusing_unreadable():
            info = stat_file(path)
            if head is None:
                head = _read_head(path, HEAD_BYTES)
        return cls(path, info.st_size, info.st_mtime_ns, len(head), hashlib.sha256(head).hexdigest())

    def check_stat(self, info: os.stat_result) -> None:
        """Refuse a file whose size or time differs; cheap enough to do at every opening."""
        if (info.st_size, info.st_mtime_ns) != (self.size, self.mtime_ns):
            what = "it was written to (another modification time)"
            if info.st_size != self.size:
                what = f"its size went from {self.size} to {info.st_size} bytes"
            raise OverlayError(f"{self.path} changed after the overlay was made: {what}",
                               "the file that the overlay describes, unchanged", REMAKE)

    def verify(self) -> None:
        """Refuse a file that is gone or whose size, time or header differ.

        Raises:
            OverlayError: with what changed.
        """
        try:
            self.check_stat(stat_file(self.path))
            head = _read_head(self.path, self.head_bytes)
        except OSError as error:
            raise OverlayError(f"{self.path} cannot be read any more ({error.strerror or error})",
                               "the file that the overlay describes",
                               "Put the file back, or make the overlay again with the new path.") from error
        if hashlib.sha256(head).hexdigest() != self.head_sha256:
            raise OverlayError(f"{self.path} changed after the overlay was made: its header is another one",
                               "the file that the overlay describes, unchanged", REMAKE)


def is_count(value: object) -> bool:
    """Whether a value of JSON is a size, an offset or a dimension."""
    return type(value) is int and 0 <= value < 1 << 63


def stat_file(path: Path) -> os.stat_result:
    """`Path.stat`, but only of what can be opened without waiting.

    Raises:
        OSError: not there, no path of this system, or a pipe or device (opening a pipe waits for ever).
    """
    try:
        info = path.stat()
    except ValueError as error:  # a null character, or half of a character
        raise OSError(errno.EINVAL, f"no path of this system: {error}", str(path)) from error
    if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return info


@contextmanager
def refusing_unreadable() -> Iterator[None]:
    """A context, or a decorator, in which a file or folder that cannot be read is an `OverlayError`."""
    try:
        yield
    except OSError as error:
        raise OverlayError(f"{error.filename} cannot be read ({error.strerror or error})", "readable files",
                           "Check the path and the permissions.") from error


def _read_head(path: Path, count: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One tensor as a byte range of a file.

    Args:
        path: absolute path of the file.
        dtype: safetensors name, a key of `DTYPE_BITS`.
        shape: as stored.
        start, end: absolute byte range [start, end) in the file.
        source: what the file was when the overlay was made; readers refuse a changed file if it is given.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    source: SourceFile | None = field(default=None, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


Parameter = bool | int | float | str


@dataclass(frozen=True)
class QuantRef:
    """One weight that is stored quantised, as several tensors (spec/09 §2). Stands where a `TensorRef` stands.

    Args:
        format: a key of `weights.dequant.FORMATS`, which states how the parts become numbers.
        shape: of the weight that the parts stand for.
        parts: by canonical name ("weight", "weight_scale", …), whatever the file calls them.
        parameters: what else the format needs, for example the size of a group.
        origin: numbers that the parts are made of while they are read (`overlay.weight_dtype`); the ranges of the parts
            then say sizes only. None: the parts are in the file.
    """

    format: str
    shape: tuple[int, ...]
    parts: Mapping[str, TensorRef] = field(hash=False)
    parameters: Mapping[str, Parameter] = field(default_factory=dict, hash=False)
    origin: TensorRef | None = None

    @property
    def read(self) -> Mapping[str, TensorRef]:
        """What is read of a file."""
        if self.origin is not None:
            return {ORIGIN: self.origin}
        return self.parts

    @property
    def _first(self) -> TensorRef:
        return self.origin or self.parts["weight"]

    @property
    def path(self) -> Path:
        """File of the weight; the other parts are in the same one."""
        return self._first.path

    @property
    def source(self) -> SourceFile | None:
        """What the file was when the overlay was made."""
        return self._first.source

    @property
    def start(self) -> int:
        """Where the weight itself begins."""
        return self._first.start

    @property
    def dtype(self) -> str:
        """The format, for reports; no key of `DTYPE_BITS`."""
        return self.format

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return sum(part.size_bytes for part in self.read.values())


AnyRef = TensorRef | QuantRef


def gigabytes(size: int) -> str:
    """A size for people: 46.1 GB, 365 MB, 134 bytes."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 0.95 * bytes_:
            value = size / bytes_
            return f"{value:.1f} {unit}" if value < 99.95 and unit != "kB" else f"{value:.0f} {unit}"
    return f"{size} bytes"
