"""`identify` for one file: what its header says, with what its name, its size and its neighbours add."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import OverlayError
from ..bytes.endings import TOKENIZERS, is_gguf_name
from ..bytes.gguf import MAGIC, read_gguf
from ..bytes.header import header_bytes, header_of
from ..bytes.source import SourceFile, gigabytes
from ..names.kinds import GEMMA
from ..names.variant import DISTILLED, Variant, generation_of, variant_of, variant_of_name
from .facts import VARIANT, Facts, facts_of
from .identity import AGAIN, Identity
from .not_weights import absent, no_weights
from .remembered import Memory
from .tree import Opened, Stat, Tree

HOLLOW = "only zeros at its end where numbers belong, an unfinished download that has reserved its space"
OF_VARIANT = ("checkpoint", "transformer", "connectors")  # kinds that are of dev or of distilled weights
# A distilled LoRA changes of the 34 Linear layers of a block at least so many. For the 22B's width its mean rank is at
# least the first where all layers have the same, the second where a reduction has left each its own.
MODULES_A_BLOCK, LEAST_RANK, LEAST_REDUCED, FULL_WIDTH = 20, 80, 40, 4096
REDUCED = 8  # different ranks: a single one, cut where a layer is smaller, makes fewer


def name_it(path: Path, facts: Facts, size: int, tree: Tree | None = None) -> Identity:
    """What the header says, with what the name and the size of this file add."""
    variant = _variant(path, facts)
    brings = facts.brings
    words = variant.words
    if facts.kind == "lora" and variant.name:
        brings = (*facts.brings, "distilled_lora")
        words = f" ({variant.name})"
    text = facts.text.replace(VARIANT, words)
    generation = facts.generation or generation_of(path.name)
    base = Identity(path, facts.kind, f"{text}, {gigabytes(size)}", brings,
                    variant=variant.name, dtypes=facts.dtypes, size_bytes=size,
                    usable=facts.usable, fix=facts.fix, fits=facts.fits,
                    weights=facts.weights, work=facts.work, formats=facts.formats,
                    generation=generation, modules=facts.modules, rank=facts.rank)
    if size < facts.end:
        promised, there = gigabytes(facts.end), gigabytes(size)
        if promised == there:
            promised, there = f"{facts.end} bytes", str(size)
        sentence = f"{text}, truncated: header promises {promised}, file has {there}"
        return base.refused("truncated", sentence, "Continue the download, or repeat it.")
    if size > facts.end and not facts.dtypes.startswith("GGUF"):
        return base.refused("damaged", f"{base.sentence}: {size - facts.end} bytes too long", AGAIN)
    if facts.usable and facts.kind == "text_encoder" and (lack := _lacks(path, facts, tree or Tree())):
        return base.refused("incomplete", f"{base.sentence}: {lack}",
                            "Put that file beside it, or use a file or folder that has it.")
    if facts.note:
        return replace(base, sentence=f"{base.sentence}: {facts.note}")
    if VARIANT in facts.text and not variant.name and facts.kind in ("checkpoint", "transformer"):
        return replace(base, sentence=f"{base.sentence}; the name tells neither dev nor distilled")
    return base


def _variant(path: Path, facts: Facts) -> Variant:
    """Of weights by file and folders; of a LoRA, whether it is the distilled one, by its own name and by what it is."""
    if facts.kind in OF_VARIANT:
        return variant_of(path)
    if facts.kind != "lora" or VARIANT not in facts.text:
        return Variant()
    own = variant_of_name(path.name)
    if own.name == DISTILLED and is_distilled_lora(facts):
        return own
    return Variant()


def is_distilled_lora(facts: Facts) -> bool:
    """Whether a LoRA changes so much that it can be the distilled one; a style that is named so does not.

    The official one is the difference of two checkpoints: it changes every Linear of the transformer, 1660 (spec/01
    §1), those outside the blocks too, with ranks up to 384. What is reduced from it has another rank in each module,
    about 100 in the mean, and perhaps not all modules (spec/09). A trainer changes layers in the blocks, if all of
    them, and gives them one rank. A tiny model's are as many a block, and as large for its width.
    """
    if "IC-LoRA" in facts.text or not facts.blocks or facts.modules < MODULES_A_BLOCK * facts.blocks:
        return False
    rank = facts.rank * FULL_WIDTH / facts.fits.get("width", FULL_WIDTH)
    if facts.ranks >= REDUCED:
        return rank >= LEAST_REDUCED
    return rank >= LEAST_RANK and facts.outside > 0


def _lacks(path: Path, facts: Facts, tree: Tree) -> str:
    """What a single file of Gemma needs beside it and does not have."""
    folder = path.parent
    places = (place / name for place in (folder, folder / "tokenizer") for name in TOKENIZERS)
    if "tokenizer" not in facts.brings and not any(map(tree.has_file, places)):
        return f"no tokenizer inside, and no {' or '.join(TOKENIZERS)} beside it"
    states_its_own = facts.text.startswith(GEMMA) or is_gguf_name(path.name)
    if not states_its_own and not tree.has_file(folder / "config.json"):
        return "no config.json beside it that describes a Gemma of this size"
    return ""


def look_at(path: Path, info: Stat, memory: Memory | None) -> tuple[str, Facts | Identity]:
    """Read a file that is not remembered, at one opening: hash of its header ("" if it has none), and what it is."""
    try:
        with Opened(path) as file:
            head, facts = _facts(path, file, info, memory)
            if facts.usable and is_hollow(file, facts.tail):
                found = name_it(path, facts, info.size)
                return "", found.refused("unfinished", f"{found.sentence}: {HOLLOW}", AGAIN)
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


def alone(path: Path) -> Identity:
    """One file as such, whatever lies beside it: a broken shard, above all."""
    try:
        info = Stat.of(os.stat(path))
    except OSError as error:
        return absent(path, error)
    _, found = look_at(path, info, None)
    return found if isinstance(found, Identity) else name_it(path, found, info.size)


def is_hollow(file: Opened, tail: Sequence[Sequence[int]]) -> bool:
    """Whether the last tensors are zeros, all of them: space that a download has reserved and not filled.

    Args:
        file: opened.
        tail: of `facts.tail_of`.
    """
    for start, end in tail:
        file.seek(start)
        if any(file.read(end - start)):
            return False
    return bool(tail)
