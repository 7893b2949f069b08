"""`identify`: one sentence about any file or folder, from its header alone. Nothing is loaded, nothing is unpickled."""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import OverlayError
from ..bytes.gguf import MAGIC, is_gguf, read_gguf
from ..bytes.header import MAX_HEADER, Header, is_name, parse_json, read_header
from ..bytes.source import DTYPE_BITS, SourceFile, TensorRef, is_count
from ..names.kinds import FOREIGN, GEMMA, UNFINISHED, USE_OFFICIAL
from .facts import VARIANT, Facts, facts_of

if TYPE_CHECKING:
    from .remembered import Memory

START_BYTES = 512
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_AGAIN = "Download the file again, and compare its size with the one that the download page shows."


@dataclass(frozen=True)
class Identity:
    """What a file or folder is.

    Args:
        path: absolute path.
        kind: "checkpoint", "transformer", "connectors", "text_projection", "video_vae", "audio_vae", "vocoder",
            "text_encoder", "upsampler", "lora", "diffusers"; "other" for what LTX-2.3 cannot use; or what a file
            that is no weights is ("lfs_pointer", "truncated", ...).
        sentence: for people: "LTX-2.3 dev, monolith, bf16, 46.1 GB".
        brings: the components that it has, by the names of `Overlay.components`, and "lora".
        variant: "dev" or "distilled" as far as names tell, else None; the content does not.
        dtypes: number format of the weights ("bf16", "fp8 scaled", "GGUF Q4_K").
        size_bytes: of the file, or of all weight files of the folder.
        usable: whether LTX-2.3 can use it as it is.
        fix: the next step where it is not usable.
        fits: sizes that must agree between files used together.
    """

    path: Path
    kind: str
    sentence: str
    brings: tuple[str, ...] = ()
    variant: str | None = None
    dtypes: str = ""
    size_bytes: int = 0
    usable: bool = False
    fix: str = ""
    fits: dict[str, int] | None = None


def identify(path: str | os.PathLike[str], memory: Memory | None = None) -> Identity:
    """Say what a file or folder is. Reads headers only; never raises for what it finds there.

    Args:
        path: a file (with any extension or none) or a folder.
        memory: of earlier answers; what has not changed since is not read again.
    """
    path = Path(os.path.abspath(path))
    known = remembered(path, memory)
    if known is not None:
        return known
    from .identify_folder import identify_folder, identify_shard
    if path.is_dir():
        return identify_folder(path, memory)
    shard = SHARD.fullmatch(path.name)
    return identify_shard(path, shard, memory) if shard else _identify_file(path, memory)


def remembered(path: Path, memory: Memory | None) -> Identity | None:
    """What is known of an absolute path without opening it: from memory, or because it is no file at all."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
            return Identity(path, "no_file", "no ordinary file (a device, pipe or socket)", fix="Give a weight file.")
        if memory is None:
            return None
        if stat.S_ISDIR(info.st_mode) or SHARD.fullmatch(path.name):
            from .identify_folder import fingerprint
            known = memory.recall(path, fingerprint(path if path.is_dir() else path.parent))
        else:
            known = memory.recall(path, _key(info))
    except OSError as error:
        return _absent(path, error)
    except ValueError:  # a null character, or half of a character
        return Identity(path, "absent", "no path of this system", fix="Check the path.")
    if known is None or isinstance(known[1], Identity):
        return known and known[1]
    return name_it(path, known[1], info.st_size)


def _key(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ino


def _identify_file(path: Path, memory: Memory | None) -> Identity:
    try:
        info = path.stat()
    except OSError as error:
        return _absent(path, error)
    head, result = _look(path, info.st_size, memory)
    if memory:
        memory.keep(path, _key(info), head, result)
    return result if isinstance(result, Identity) else name_it(path, result, info.st_size)


def name_it(path: Path, facts: Facts, size: int) -> Identity:
    """What the header says, with what the name and the size of this file add."""
    variant, words = variant_of(path)
    if facts.kind == "lora":
        words = " (distilled)" if variant == "distilled" and "IC-LoRA" not in facts.text else ""
        variant = "distilled" if words else None
    text = facts.text.replace(VARIANT, words)
    brings = (*facts.brings, "distilled_lora") if facts.kind == "lora" and variant else facts.brings
    if size < facts.end:
        alike = gigabytes(facts.end) == gigabytes(size)
        promised, there = (f"{facts.end} bytes", str(size)) if alike else (gigabytes(facts.end), gigabytes(size))
        return Identity(path, "truncated", f"{text}, truncated: header promises {promised}, file has {there}", (),
                        variant, facts.dtypes, size, False,
                        "Continue or repeat the download.", facts.fits)
    if size > facts.end and not facts.dtypes.startswith("GGUF"):
        return Identity(path, "damaged", f"{text}, {gigabytes(size)}: {size - facts.end} bytes too long", (), variant,
                        facts.dtypes, size, False, _AGAIN, facts.fits)
    if facts.usable and facts.kind == "text_encoder" and (lack := _lacks(path, facts)):
        return Identity(path, "incomplete", f"{text}, {gigabytes(size)}: {lack}", (), None, facts.dtypes, size, False,
                        "Put that file beside it, or use a file or folder that has it.", facts.fits)
    unusual = ""
    if VARIANT in facts.text and not words and facts.kind in ("checkpoint", "transformer"):
        unusual = "; the name tells neither dev nor distilled"
    note = f": {facts.note}" if facts.note else unusual
    return Identity(path, facts.kind, f"{text}, {gigabytes(size)}{note}", brings,
                    variant if VARIANT in facts.text else None, facts.dtypes, size, facts.usable, facts.fix, facts.fits)


def _lacks(path: Path, facts: Facts) -> str:
    """What a single file of Gemma needs beside it and does not have."""
    places = (path.parent, path.parent / "tokenizer")
    if "tokenizer" not in facts.brings and not any((place / name).is_file() for place in places for name in TOKENIZERS):
        return "no tokenizer inside, and no tokenizer.json or tokenizer.model beside it"
    if not facts.text.startswith(GEMMA) and not (path.parent / "config.json").is_file():
        return "no config.json beside it that describes a Gemma of this size"
    return ""


def variant_of(path: Path) -> tuple[str | None, str]:
    """Variant and words for it, by the file's name, else by the two folders above it."""
    for name in (path.name, path.parent.name, path.parent.parent.name):
        if match := re.search(r"distill(?:ed)?(?:[-_. ]?(1[._]\d))?", name, re.I):
            return "distilled", " distilled" + (f" {match[1].replace('_', '.')}" if match[1] else "")
        if re.search(r"(^|[^a-z])dev([^a-z]|$)", name, re.I):
            return "dev", " dev"
    return None, ""


def gigabytes(size: int) -> str:
    """A size for people: 46.1 GB, 365 MB, 134 bytes."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 0.95 * bytes_:
            value = size / bytes_
            return f"{value:.1f} {unit}" if value < 99.95 and unit != "kB" else f"{value:.0f} {unit}"
    return f"{size} bytes"


def _look(path: Path, size: int, memory: Memory | None) -> tuple[str, Facts | Identity]:
    """Read a file that is not remembered: hash of its header ("" if it has none) and what it is."""
    try:
        head = _head_hash(path, size)
        if head and memory and (facts := memory.facts.get(head)):
            return head, facts
        header = read_gguf(path) if is_gguf(path) else read_header(path)
        return header.source.head_sha256, facts_of(header)
    except (OverlayError, RecursionError, OverflowError) as error:
        error.__cause__ = error.__context__ = error.__traceback__ = None  # they keep all that was read in memory
        return "", _no_weights(path, size, error)


def _head_hash(path: Path, size: int) -> str:
    """SHA-256 of a safetensors header, "" where there is none; costs no parsing."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                return ""
            file.seek(0)
            return hashlib.sha256(file.read(8 + length)).hexdigest()
    except OSError:
        return ""


def _absent(path: Path, error: OSError) -> Identity:
    with contextlib.suppress(OSError):
        return Identity(path, "broken_link", f"link to {os.readlink(path)}, which is not there",
                        fix="Download the file again, or delete the link.")
    if isinstance(error, FileNotFoundError):
        return Identity(path, "absent", "not there", fix="Check the path.")
    return Identity(path, "unreadable", f"cannot be read ({error.strerror or error})", fix="Check the permissions.")


def _no_weights(path: Path, size: int, error: Exception) -> Identity:
    """A file whose header cannot be read: what it is instead."""
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError as problem:
        return _absent(path, problem)
    how_long = gigabytes(size)
    if not size:
        return Identity(path, "empty", "empty file: the download did not begin", fix=_AGAIN)
    if path.suffix.lower() in UNFINISHED:
        return Identity(path, "unfinished", f"unfinished download, {how_long} so far", size_bytes=size,
                        fix="Let the download finish; the file then loses the ending of its name.")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= MAX_HEADER:
        return _cut_or_damaged(path, size, length, error)
    if start.startswith(MAGIC):
        return _gguf_problem(path, size, error)
    for foreign in FOREIGN:
        if foreign.start.match(start):
            pointed = re.search(rb"\nsize (\d{1,20})", start)
            real = f" (the real file has {gigabytes(int(pointed[1]))})" if pointed else ""
            sentence = foreign.sentence.format(size=how_long, real=real, suffix=path.suffix or "a weight file")
            return Identity(path, foreign.kind, sentence, size_bytes=size, fix=foreign.fix)
    if size < 4096 and start.isascii() and b"\0" not in start:
        return Identity(path, "text", f"short text of {how_long}, no weights", size_bytes=size, fix=_AGAIN)
    return Identity(path, "unknown", f"no weight file, {how_long}", size_bytes=size, fix=USE_OFFICIAL)


def _gguf_problem(path: Path, size: int, error: Exception) -> Identity:
    found = error.found if isinstance(error, OverlayError) else str(error)
    what = found.replace(str(path), "", 1).strip().removeprefix("is ")
    kind = "truncated" if "truncated" in what else "damaged"
    sentence = f"GGUF file, {gigabytes(size)}, {what.removeprefix('a GGUF file ')}"
    return Identity(path, kind, sentence, size_bytes=size, fix=error.fix if isinstance(error, OverlayError) else _AGAIN)


def _cut_or_damaged(path: Path, size: int, length: int, error: Exception) -> Identity:
    """A safetensors file that ends too early (named by its header as far as possible), or with a damaged header."""
    if length > size - 8:
        return Identity(path, "truncated", f"truncated: its header alone has {gigabytes(8 + length)}, file has "
                        f"{gigabytes(size)}", size_bytes=size, fix="Continue or repeat the download.")
    promised, header = _lenient(path, length)
    if promised > size or "after its last tensor" in str(error):
        return name_it(path, Facts(**{**vars(facts_of(header)), "end": promised}), size)
    found = error.found if isinstance(error, OverlayError) else f"{type(error).__name__}: {error}"
    why = found.replace(str(path), "", 1).strip().removeprefix("has ")
    return Identity(path, "damaged", f"safetensors file, {gigabytes(size)}, with {why}", size_bytes=size, fix=_AGAIN)


def _lenient(path: Path, length: int) -> tuple[int, Header]:
    """Where the last tensor of a header ends, and all tensors that are described properly."""
    with open(path, "rb") as file:
        data = file.read(8 + length)
    try:
        table = parse_json(str(memoryview(data)[8:], "utf-8"))
    except ValueError:
        table = {}
    end, tensors = 0, {}
    for name, entry in table.items() if isinstance(table, dict) else ():
        dtype, shape, offsets = (entry.get(key) if isinstance(entry, dict) else None
                                 for key in ("dtype", "shape", "data_offsets"))
        if is_name(name) and isinstance(dtype, str) and dtype in DTYPE_BITS and isinstance(shape, list) and (
                isinstance(offsets, list) and len(offsets) == 2 and all(map(is_count, (*shape, *offsets)))):
            end = max(end, offsets[1])
            tensors[name] = TensorRef(path, dtype, tuple(shape), 8 + length + offsets[0], 8 + length + offsets[1])
    return 8 + length + end, Header(SourceFile.of(path, data), tensors, {})
