"""Finds Gemma 3 among the tensors of a file, alone or together with other parts, under any prefix (spec/09 §4)."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..bytes.source import AnyRef
from .lines import Lines

LAYOUT = "Gemma 3"
TOKENIZER = "spiece_model"  # ComfyUI's Gemma files carry the bytes of tokenizer.model
# The prefixes of a Hugging Face Gemma before embed_tokens, layers and norm, longest first.
PREFIXES = ("model.language_model.model.", "model.language_model.",
            "language_model.model.", "language_model.", "model.", "")
_TEXT = re.compile(r"(embed_tokens|norm)\.weight$|layers\.\d+\.")
_VISION = re.compile(r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\.")
# Tied to the embedding, or what ComfyUI's classes carry along without using it.
_UNUSED = re.compile(r"(^|\.)(lm_head\.|logit_scale$)")
_FIRST = "layers.0.self_attn.q_norm.weight"
_BEFORE = rf"^(.*?){re.escape(_FIRST)}$"
_SIGNS = (_BEFORE, r"layers\.0\.post_feedforward_layernorm\.weight$")
_OTHERS = r"layer_scalar$|embed_tokens_per_layer|(^|\.)tokenizer_json$"  # Gemma 4 and 3n


class Taken(NamedTuple):
    """What a file has of Gemma.

    Args:
        components: text_encoder, text_encoder_vision, tokenizer: those that are there.
        rest: the tensors of other parts.
    """

    components: dict[str, dict[str, AnyRef]]
    rest: dict[str, AnyRef]

    @property
    def layout(self) -> str:
        """Name for the manifest."""
        if "tokenizer" in self.components:
            return "ComfyUI's Gemma 3 file"
        return LAYOUT


def is_gemma(names: Lines) -> bool:
    """Whether these names, numbers of layers 0, have a Gemma 3 among them."""
    return all(map(names.has, _SIGNS)) and not names.has(_OTHERS)


def outer_prefix(names: Lines) -> str:
    """What a tool put before the names that Hugging Face gives to Gemma: "" or, say, ``gemma3_12b.transformer.``."""
    found = names.search(_BEFORE)
    if found is None:
        return ""
    before = found[1]
    for prefix in PREFIXES:
        if before.endswith(prefix):
            return before.removesuffix(prefix)
    return before


def take_gemma(tensors: Mapping[str, AnyRef], names: Lines) -> Taken:
    """Sort a file's tensors into those of Gemma and all others.

    Args:
        tensors: of the file.
        names: of the file, as for `is_gemma`.
    """
    outer = outer_prefix(names)
    inside: dict[str, AnyRef] = {}
    tokenizer: dict[str, AnyRef] = {}
    for key, ref in tensors.items():
        if _is_tokenizer(key):
            tokenizer.setdefault(TOKENIZER, ref)
        elif key.startswith(outer):
            inside[key.removeprefix(outer)] = ref
    text, others = split_gemma(inside.items())
    vision = {key: ref for key, ref in others.items() if _VISION.match(key)}
    components = {}
    used: set[int] = set()
    for name, part in (("text_encoder", text), ("text_encoder_vision", vision), ("tokenizer", tokenizer)):
        if part:
            components[name] = part
            used.update(map(id, part.values()))
    rest = {key: ref for key, ref in tensors.items() if id(ref) not in used and not _UNUSED.search(key)}
    return Taken(components, rest)


def _is_tokenizer(key: str) -> bool:
    return key == TOKENIZER or key.endswith("." + TOKENIZER)


def split_gemma(tensors: Iterable[tuple[str, AnyRef]]) -> tuple[dict[str, AnyRef], dict[str, AnyRef]]:
    """Sort Gemma's tensors into the text model (names of transformers' Gemma3TextModel) and all others (vision)."""
    text: dict[str, AnyRef] = {}
    others: dict[str, AnyRef] = {}
    for key, ref in tensors:
        bare = key.removeprefix("module.")
        name = _text_name(bare)
        if name is not None:
            text[name] = ref
        elif not _UNUSED.search(bare):
            others[bare] = ref
    return text, others


def _text_name(key: str) -> str | None:
    for prefix in PREFIXES:
        if key.startswith(prefix) and _TEXT.match(key[len(prefix):]):
            return key[len(prefix):]
    return None
