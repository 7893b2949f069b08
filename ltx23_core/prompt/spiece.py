"""Gemma's tokenizer out of a SentencePiece model (``tokenizer.model``) as a ``tokenizer.json`` (spec/09 §4).

ComfyUI's text encoder files carry the SentencePiece bytes inside. transformers reads the fast form alone without
further packages (sentencepiece, protobuf), so it is made here once: the same conversion as transformers' own
GemmaConverter. It takes seconds for 262 144 pieces, so the result is kept beside the overlay.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..overlay.bytes.endings import TOKENIZER_JSON

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # kinds of a fixed size -> bytes


class Piece(NamedTuple):
    """An entry of the vocabulary."""

    text: str
    score: float
    kind: int


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Fields of a protobuf message: (number, content). ValueError if it is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("damaged protobuf")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == _VARINT:
            yield key >> 3, varint()
            continue
        size = _FIXED.get(kind, len(data))  # of an unknown kind: longer than what is left
        if kind == _BYTES:
            size = varint()
        if size > len(data) - at:
            raise ValueError("damaged protobuf")
        yield key >> 3, data[at:at + size]
        at += size


def _read_piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            text = value.decode()
        elif field == 2 and isinstance(value, bytes) and len(value) == 4:
            score = struct.unpack("<f", value)[0]
        elif field == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def read_pieces(model: bytes) -> list[Piece]:
    """The vocabulary of a SentencePiece model.

    Raises:
        ValueError: no such model, or not of the byte-pair kind that Gemma has.
    """
    pieces, model_type = [], 1
    for number, content in _fields(model):
        if number == 1 and isinstance(content, bytes):
            pieces.append(_read_piece(content))
        elif number == 2 and isinstance(content, bytes):
            model_type = next((value for field, value in _fields(content) if field == 3), 1)
    if not pieces or model_type != 2:
        raise ValueError("not a byte-pair SentencePiece model")
    return pieces


def _merges(vocabulary: dict[str, int], pieces: list[Piece]) -> list[list[str]]:
    """Every split of every piece into two pieces; the best piece first, of one piece the longest left part first."""
    found = []
    for piece in pieces:
        local = []
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in vocabulary and right in vocabulary:
                local.append((piece.score, left, right))
        local.sort(key=lambda merge: (vocabulary[merge[1]], vocabulary[merge[2]]))
        found += local
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [[left, right] for _, left, right in found]


def _added_token(number: int, piece: Piece) -> dict[str, object]:
    """Entry of a token that no text is split into."""
    return {"id": number, "content": piece.text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": piece.kind != USER_DEFINED or piece.text in _TURNS}


def tokenizer_files(model: bytes) -> dict[str, str]:
    """The files of a tokenizer folder, name -> content, as transformers' GemmaConverter would make them.

    Args:
        model: content of Gemma's tokenizer.model.

    Raises:
        ValueError: another kind of model.
    """
    pieces = read_pieces(model)
    texts = [piece.text for piece in pieces]
    vocabulary = {text: number for number, text in enumerate(texts)}
    bos, unknown = texts.index("<bos>"), next(p.text for p in pieces if p.kind == UNKNOWN)
    added = []
    for number, piece in enumerate(pieces):
        if piece.kind in (CONTROL, USER_DEFINED, UNKNOWN):
            added.append(_added_token(number, piece))
    first = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    one, other = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                          "invert": False},
        "post_processor": {
            "type": "TemplateProcessing", "single": [first, one],
            "pair": [first, one, first, other],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocabulary, "merges": _merges(vocabulary, pieces)},
    }
    options = {"tokenizer_class": "GemmaTokenizerFast", "add_bos_token": True, "add_eos_token": False,
               "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": unknown,
               "clean_up_tokenization_spaces": False, "spaces_between_special_tokens": False}
    return {
        TOKENIZER_JSON: json.dumps(tokenizer, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(options),
    }
