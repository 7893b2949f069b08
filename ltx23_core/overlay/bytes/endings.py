"""What endings and names of files mean: weights, shards, tokenizers, unfinished downloads. Capitals do not count."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

SAFETENSORS = (".safetensors", ".sft")
GGUF = ".gguf"
WEIGHTS = (*SAFETENSORS, GGUF)
PICKLES = (".pt", ".pth", ".ckpt", ".bin")  # weights that can run code: never opened
TOKENIZER_JSON, TOKENIZER_MODEL = TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # either is enough
TOKENIZER_FILES = (*TOKENIZERS, "tokenizer_config.json")
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".opdownload", ".download", ".aria2", ".!qb", ".!ut",
              ".tmp")
INDEX_OF = ".index.json"  # behind the name of the model as one file
INDEX = f".safetensors{INDEX_OF}"
SGLANG_MARKER = ".sglang_overlay_materialized.json"  # of the folders that sglang writes
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.[a-z]+)", re.I)
MOST_SHARDS = 9999


class Shard(NamedTuple):
    """One of several files that make one model."""

    stem: str
    number: int
    count: int
    ending: str

    def names(self) -> list[str]:
        """The names of all of them, in order."""
        return [shard_name(self.stem, number, self.count, self.ending)
                for number in range(1, min(self.count, MOST_SHARDS) + 1)]


def shard_name(stem: str, number: int, count: int, ending: str = ".safetensors") -> str:
    """The name of one of several files; numbers begin at 1."""
    return f"{stem}-{number:05}-of-{count:05}{ending}"


def is_weights(name: str) -> bool:
    """Whether a file is called as weight files are."""
    return name.lower().endswith(WEIGHTS)


def is_gguf_name(name: str) -> bool:
    """Whether a file is called as GGUF files are."""
    return name.lower().endswith(GGUF)


def shard_of(name: str) -> Shard | None:
    """The place of a file among its shards; None if it stands alone."""
    match = _SHARD.fullmatch(name)
    if match is None or not is_weights(name):
        return None
    return Shard(match["stem"], int(match["number"]), int(match["count"]), match["ending"])


def stem_of(name: str) -> str:
    """The name without the ending of a weight file, and without the number of a shard."""
    shard = shard_of(name)
    if shard is not None:
        return shard.stem
    return os.path.splitext(name)[0]


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether a folder with these files has a tokenizer."""
    return not set(TOKENIZERS).isdisjoint(names)
