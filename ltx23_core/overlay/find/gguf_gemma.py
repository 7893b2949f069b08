"""Gemma 3 in a GGUF file: configuration and tokenizer out of the header's values (spec/09 §2.9)."""
from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import OverlayError
from ..bytes.gguf import GEMMA, MAGIC, read_values

# transformers' name -> the file's, after "gemma3."
_FIELDS: dict[str, tuple[str, type]] = {
    "hidden_size": ("embedding_length", int), "intermediate_size": ("feed_forward_length", int),
    "num_hidden_layers": ("block_count", int), "num_attention_heads": ("attention.head_count", int),
    "num_key_value_heads": ("attention.head_count_kv", int), "head_dim": ("attention.key_length", int),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon", float), "rope_theta": ("rope.freq_base", float),
    "sliding_window": ("attention.sliding_window", int), "max_position_embeddings": ("context_length", int),
}
_LAYERS_27B = 62  # the only size whose queries are not scaled by the root of head_dim
_FACTOR_12B = ("48", "3840", 8.0)  # layers, width, and the factor of its rotary positions where the file lacks it
_USE = "Use the GGUF of unsloth/gemma-3-12b-it-GGUF or unsloth/gemma-3-12b-it-qat-GGUF."
_SPACE = "\u2581"  # stands for a space in SentencePiece
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens, the same in GGUF and SentencePiece


def is_gguf_gemma(metadata: Mapping[str, str]) -> bool:
    """Whether metadata are those of a Gemma 3 in a GGUF file."""
    return metadata.get("general.architecture") == GEMMA and f"{GEMMA}.block_count" in metadata


def gguf_gemma_config(path: Path, metadata: Mapping[str, str], vocabulary: int) -> dict[str, Any]:
    """The model's config.json, from the header's values.

    Args:
        path: of the file, for messages.
        metadata: of `read_gguf`.
        vocabulary: rows of the embedding.

    Raises:
        OverlayError: a value is missing or no number.
    """
    config: dict[str, Any] = {"model_type": "gemma3_text", "vocab_size": vocabulary}
    for name, (key, kind) in _FIELDS.items():
        text = metadata.get(f"{GEMMA}.{key}")
        try:
            config[name] = kind(text)
        except (TypeError, ValueError) as error:
            raise OverlayError(f"{path} has gemma3.{key} = {text}", "a number, as llama.cpp writes it",
                               _USE) from error
    heads = config["num_attention_heads"]
    config["query_pre_attn_scalar"] = (config["hidden_size"] // heads if config["num_hidden_layers"] == _LAYERS_27B
                                       and heads else config["head_dim"])
    layers, width, factor = _FACTOR_12B
    same = (metadata[f"{GEMMA}.block_count"], metadata[f"{GEMMA}.embedding_length"]) == (layers, width)
    text = metadata.get(f"{GEMMA}.rope.scaling.factor", str(factor) if same else "")
    if text and metadata.get(f"{GEMMA}.rope.scaling.type", "linear") == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": float(text)}
    return config


def sentencepiece_model(data: bytes, path: Path) -> bytes:
    """The bytes of tokenizer.model: those that a file carries, or made of the values of a GGUF header.

    Args:
        data: what the tensor `layout.TOKENIZER` of a file holds.
        path: of the file, for messages.

    Raises:
        OverlayError: a GGUF header without a SentencePiece vocabulary.
    """
    if not data.startswith(MAGIC):
        return data
    values = read_values(data, path)
    tokens, scores, kinds = (values.get(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))
    ids = {name: values.get(f"tokenizer.ggml.{key}_token_id", default) for name, key, default in
           (("unk", "unknown", 3), ("bos", "bos", 2), ("eos", "eos", 1), ("pad", "padding", 0))}
    if not isinstance(tokens, list) or not all(isinstance(each, list) and len(each) == len(tokens)
                                               for each in (scores, kinds)):
        raise OverlayError(f"{path} has no vocabulary with scores and types", "a SentencePiece vocabulary, "
                           "as the GGUF files of Gemma 3 have", _USE)
    special = set(ids.values())  # other control tokens (<end_of_turn>) are found in text, as transformers does
    kinds = [_USER_DEFINED if kind == _CONTROL and i not in special else kind for i, kind in enumerate(kinds)]
    pieces = b"".join(_field(1, _piece(*piece)) for piece in zip(tokens, scores, kinds, strict=True))
    trainer = _numbers([(3, 2), (4, len(tokens)), (35, 1)])  # BPE, size, byte fallback
    for number, name in enumerate(("unk", "bos", "eos", "pad"), 40):  # ids, and the pieces that they must be
        if isinstance(ids[name], int) and 0 <= ids[name] < len(tokens):
            trainer += _numbers([(number, ids[name])]) + _field(number + 5, str(tokens[ids[name]]).encode())
    normalizer = _field(1, b"identity") + _numbers([(3, 0), (4, 0), (5, 1)])  # no space in front, none removed
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _piece(text: str, score: float, kind: int) -> bytes:
    if kind == _USER_DEFINED:  # llama.cpp's converter put spaces into these
        text = text.replace(" ", _SPACE)
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _numbers([(3, kind)])


def _numbers(fields: Iterable[tuple[int, int]]) -> bytes:
    """Protocol buffer fields of whole numbers."""
    return b"".join(_varint(number << 3) + _varint(value & (1 << 64) - 1) for number, value in fields)


def _field(number: int, data: bytes) -> bytes:
    """A protocol buffer field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes((value & 127 | 128,))
        value >>= 7
    return result + bytes((value,))
