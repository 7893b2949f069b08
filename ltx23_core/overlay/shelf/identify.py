"""`identify`: one sentence about any file or folder, from its header alone. Nothing is loaded, nothing is unpickled."""
from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import OverlayError
from ..bytes.gguf import MAGIC, read_gguf
from ..bytes.header import header_bytes, header_of
from ..bytes.source import SourceFile
from ..names.kinds import GEMMA
from ..names.variant import DISTILLED, Variant, generation_of, variant_of, variant_of_name
from .facts import VARIANT, Facts, facts_of
from .identity import AGAIN, Identity, gigabytes
from .not_weights import absent, no_weights
from .tree import Opened, Stat, Tree

if TYPE_CHECKING:
    from .remembered import Memory

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.I)
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
OF_VARIANT = ("checkpoint", "transformer", "connectors")  # kinds that are of dev or of distilled weights
# A distilled LoRA: of the 34 Linear layers of a block at least so many, of the 22B's width at least this mean rank.
MODULES_A_BLOCK, LEAST_RANK, FULL_WIDTH = 20, 40, 4096


def identify(path: str | os.PathLike[str], memory: Memory | None = None, tree: Tree | None = None) -> Identity:
    """Say what a file or folder is. Reads headers only; never raises for what it finds there.

    Args:
        path: a file (with any extension or none) or a folder.
        memory: of earlier answers; what has not changed since is not read again.
        tree: listings of folders that were just made; else they are made here.
    """
    path = Path(os.path.abspath(path))
    tree = tree or Tree()
    known = remembered(path, memory, tree)
    return known if known is not None else _read_anew(path, memory, tree)


def _read_anew(path: Path, memory: Memory | None, tree: Tree) -> Identity:
    from .identify_folder import identify_folder, identify_shard
    entry = tree.entry(path)
    if entry is not None and entry.is_folder:
        return identify_folder(path, memory, tree)
    shard = SHARD.fullmatch(path.name)
    if shard:
        return identify_shard(path, shard, memory, tree)
    head, result = _look(path, entry.info, memory)
    if memory:
        memory.keep(path, entry.info.key, head, result)
    return _marked(path, tree, result if isinstance(result, Identity) else name_it(path, result, entry.info.size, tree))


def remembered(path: Path, memory: Memory | None, tree: Tree | None = None) -> Identity | None:
    """What is known of an absolute path without opening it: from memory, or because it is no file at all."""
    tree = tree or Tree()
    try:
        entry = tree.entry(path)
    except OSError as error:
        return absent(path, error)
    except ValueError:  # a null character, or half of a character
        return Identity(path, "absent", "no path of this system", fix="Check the path.")
    if entry is None or (entry.info is None and not entry.is_folder):
        return absent(path, FileNotFoundError())
    if not entry.is_folder and not stat.S_ISREG(entry.info.mode):
        return Identity(path, "no_file", "no ordinary file (a device, pipe or socket)", fix="Give a weight file.")
    if memory is None:
        return None
    if entry.is_folder or SHARD.fullmatch(path.name):
        from .identify_folder import fingerprint
        known = memory.recall(path, fingerprint(path if entry.is_folder else path.parent, tree))
    else:
        known = memory.recall(path, entry.info.key)
    if known is None:
        return None
    if isinstance(known[1], Identity):
        return _marked(path, tree, known[1])
    return _marked(path, tree, name_it(path, known[1], entry.info.size, tree))


def _marked(path: Path, tree: Tree, found: Identity) -> Identity:
    """The same, unless a mark beside it says that it is still being downloaded."""
    mark = tree.mark_beside(path) if found.usable else ""
    if not mark:
        return found
    return found.refused("unfinished", f"{found.sentence}: unfinished download, {mark} is beside it",
                         f"Let the download finish; if it is finished, delete {mark}.")


def name_it(path: Path, facts: Facts, size: int, tree: Tree | None = None) -> Identity:
    """What the header says, with what the name and the size of this file add."""
    variant = _variant(path, facts)
    brings = (*facts.brings, "distilled_lora") if facts.kind == "lora" and variant.name else facts.brings
    text = facts.text.replace(VARIANT, f" ({variant.name})" if facts.kind == "lora" and variant.name else variant.words)
    generation = facts.generation or generation_of(path.name)
    base = Identity(path, facts.kind, f"{text}, {gigabytes(size)}", brings,
                    variant=variant.name, dtypes=facts.dtypes, size_bytes=size,
                    usable=facts.usable, fix=facts.fix, fits=facts.fits,
                    weights=facts.weights, work=facts.work, formats=facts.formats,
                    generation=generation, modules=facts.modules, rank=facts.rank)
    if size < facts.end:
        alike = gigabytes(facts.end) == gigabytes(size)
        promised, there = (f"{facts.end} bytes", str(size)) if alike else (gigabytes(facts.end), gigabytes(size))
        return base.refused("truncated", f"{text}, truncated: header promises {promised}, file has {there}",
                            "Continue or repeat the download.")
    if size > facts.end and not facts.dtypes.startswith("GGUF"):
        return base.refused("damaged", f"{base.sentence}: {size - facts.end} bytes too long", AGAIN)
    if facts.usable and facts.kind == "text_encoder" and (lack := _lacks(path, facts, tree or Tree())):
        return base.refused("incomplete", f"{base.sentence}: {lack}",
                            "Put that file beside it, or use a file or folder that has it.")
    note = f": {facts.note}" if facts.note else ""
    if not note and VARIANT in facts.text and not variant.name and facts.kind in ("checkpoint", "transformer"):
        note = "; the name tells neither dev nor distilled"
    return replace(base, sentence=base.sentence + note)


def _variant(path: Path, facts: Facts) -> Variant:
    """Of weights by file and folders; of a LoRA, whether it is the distilled one, by its own name and by what it is."""
    if facts.kind in OF_VARIANT:
        return variant_of(path)
    if facts.kind != "lora" or VARIANT not in facts.text:
        return Variant()
    own = variant_of_name(path.name)
    return own if own.name == DISTILLED and is_distilled_lora(facts) else Variant()


def is_distilled_lora(facts: Facts) -> bool:
    """Whether a LoRA changes so much that it can be the distilled one; a style that is named so does not.

    The official one changes every Linear of the transformer, 1660 (spec/01 §1), with ranks up to 384; the reduced ones
    have a mean rank of about 100. A style changes attention and perhaps the feed-forward, mostly with ranks up to 32.
    A tiny model's are as many a block, and as large for its width.
    """
    if "IC-LoRA" in facts.text or not facts.blocks:
        return False
    width = (facts.fits or {}).get("width", FULL_WIDTH)
    return facts.modules >= MODULES_A_BLOCK * facts.blocks and facts.rank * FULL_WIDTH >= LEAST_RANK * width


def _lacks(path: Path, facts: Facts, tree: Tree) -> str:
    """What a single file of Gemma needs beside it and does not have."""
    folder = path.parent
    places = (place / name for place in (folder, folder / "tokenizer") for name in TOKENIZERS)
    if "tokenizer" not in facts.brings and not any(map(tree.has_file, places)):
        return "no tokenizer inside, and no tokenizer.json or tokenizer.model beside it"
    if not facts.text.startswith(GEMMA) and not tree.has_file(folder / "config.json"):
        return "no config.json beside it that describes a Gemma of this size"
    return ""


def _look(path: Path, info: Stat, memory: Memory | None) -> tuple[str, Facts | Identity]:
    """Read a file that is not remembered, at one opening: hash of its header ("" if it has none), and what it is."""
    try:
        with Opened(path) as file:
            head, facts = _facts(path, file, info, memory)
            if facts.usable and is_hollow(file, facts):
                found = name_it(path, facts, info.size)
                return "", found.refused("unfinished", f"{found.sentence}: only zeros at its end where numbers belong, "
                                         "an unfinished download that has reserved its space", AGAIN)
        return head, facts
    except OSError as error:
        return "", absent(path, error)
    except (OverlayError, RecursionError, OverflowError) as error:
        error.__cause__ = error.__context__ = error.__traceback__ = None  # they keep all that was read in memory
        return "", no_weights(path, info.size, error, lambda facts: name_it(path, facts, info.size))


def _facts(path: Path, file: Opened, info: Stat, memory: Memory | None) -> tuple[str, Facts]:
    """Hash of a header and what it says, from memory where the same header was read before."""
    if file.read(len(MAGIC)) == MAGIC:
        header = read_gguf(path)
        return header.source.head_sha256, facts_of(header)
    file.seek(0)
    head = header_bytes(path, file, info.size)
    digest = hashlib.sha256(head).hexdigest()
    known = memory.facts.get(digest) if memory else None
    if known is not None:
        return digest, known
    source = SourceFile(path, info.size, info.time, len(head), digest)
    return digest, facts_of(header_of(source, head, info.size))


def is_hollow(file: Opened, facts: Facts) -> bool:
    """Whether a file has numbers, but none in its last tensors: space that a download has reserved and not filled."""
    return not any(_has_numbers(file, *place) for place in facts.tail) and any(
        _has_numbers(file, *place) for place in facts.body)


def _has_numbers(file: Opened, start: int, end: int) -> bool:
    file.seek(start)
    return any(file.read(end - start))
