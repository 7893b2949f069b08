"""Names in LoRA files, as data: endings, prefixes, and the way back to the model's own modules (spec/09 §5, §5.1).

Underscore names are never split by rules: every name that a module can have is made from the model's own list of
parameters and looked up whole.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..names.architecture import Shapes
from ..names.renames import to_diffusers

# Ending of a key -> role of the tensor. Roles of updates that are not supported stand in REFUSED.
ENDINGS: dict[str, str] = {
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_A": "a", ".lora_B": "b",
    ".lora_down.weight": "a", ".lora_up.weight": "b", "_lora.down.weight": "a", "_lora.up.weight": "b",
    ".lora.down.weight": "a", ".lora.up.weight": "b",
    ".lora_linear_layer.down.weight": "a", ".lora_linear_layer.up.weight": "b",
    ".weight.lora_a": "a", ".weight.lora_b": "b", ".lora_a": "a", ".lora_b": "b",  # llama.cpp's, in GGUF files
    ".lora_A.bias": "a_bias", ".lora_B.bias": "b_bias", ".lora_mid.weight": "mid",
    ".alpha": "alpha", ".dora_scale": "dora_scale",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_magnitude_vector": "magnitude",
    ".diff": "diff", ".diff_b": "diff_b", ".w_norm": "diff", ".b_norm": "diff_b", ".set_weight": "set",
    ".reshape_weight": "reshape",
    ".lokr_w1": "w1", ".lokr_w1_a": "w1_a", ".lokr_w1_b": "w1_b",
    ".lokr_w2": "w2", ".lokr_w2_a": "w2_a", ".lokr_w2_b": "w2_b", ".lokr_t2": "lokr_t2",
    ".hada_w1_a": "h1_a", ".hada_w1_b": "h1_b", ".hada_w2_a": "h2_a", ".hada_w2_b": "h2_b",
    ".hada_t1": "hada_t1", ".hada_t2": "hada_t2",
}
_LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)\w+(?=$|\.weight$|\.bias$)")

# Prefix of a dotted name -> dialect. Several may stand before each other.
PREFIXES: dict[str, str] = {
    "model.diffusion_model.": "official", "diffusion_model.": "official", "base_model.model.": "PEFT",
    "transformer.": "diffusers", "connectors.": "diffusers", "model.": "official",
}
UNDERSCORE_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
OFFICIAL, COMFY, KOHYA = "official", "ComfyUI", "kohya or musubi"


def _compiled(rows: Iterable[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), what) for pattern, what in rows)


# What a key without a place in the model belongs to: pattern, what it is. The first that fits counts.
FOREIGN = _compiled((
    (r"^lora_te\d?_|text_encoder|text_model|(^|[._])layers[._]\d+[._](self_attn|mlp)[._]",
     "a text encoder (Gemma) and not the transformer"),
    (r"double_blocks?[._]\d+[._]img_attn_qkv|individual_token_refiner", "HunyuanVideo"),
    (r"(double|single)_blocks[._]\d+|single_transformer_blocks", "Flux"),
    (r"lora_unet_(down|up|input|output|mid(dle)?)_block|(down|up)_blocks[._]\d+[._]attentions|mid_block",
     "Stable Diffusion"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)", "Wan"),
    (r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod|attn[._]add_[qkv]_proj)", "Qwen-Image"),
    (r"joint_blocks[._]\d+", "Stable Diffusion 3"),
    (r"caption_projection", "LTX-2.0 or LTX-Video (caption_projection)"),
    (r"aggregate_embed|text_proj_in", "another text projection (LTX-2.0)"),
))
# Methods whose updates cannot be made here, by the names of their tensors.
REFUSED = _compiled((
    (r"\.(oft_R(\.|$)|oft_blocks|oft_diag)", "OFT"), (r"\.boft_\w", "BOFT"),
    (r"\.(a1|a2|b1|b2)\.weight$", "GLoRA"), (r"\.(on_input|ia3_l)(\.|$)", "IA3"),
    (r"\.vera_lambda_|\.vera_[AB]$", "VeRA"), (r"\.hra_u(\.|$)", "HRA"), (r"\.lora_embedding_[AB]", "embeddings"),
))


class Place(NamedTuple):
    """A module of the model."""

    component: str
    path: str  # as in the overlay, without .weight or .bias


def split_key(key: str) -> tuple[str, str] | None:
    """Path and role of a key; None if its ending is unknown. PEFT's adapter names (``.default``) do not count."""
    key = _ADAPTER.sub(r".\1", key)
    for ending in _LONGEST_FIRST:
        if key.endswith(ending):
            return key.removesuffix(ending), ENDINGS[ending]
    return None


def refused_method(keys: Iterable[str]) -> str | None:
    """The name of a method that is not supported, if a key belongs to one."""
    for key in keys:
        for pattern, what in REFUSED:
            if pattern.search(key):
                return what
    return None


def foreign(key: str) -> str | None:
    """What a key without a place in the model was made for, if that can be told."""
    for pattern, what in FOREIGN:
        if pattern.search(key):
            return what
    return None


def _prefix_of(path: str) -> str | None:
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return prefix
    return None


class Names:
    """Every name that the model's modules can have in a LoRA file.

    Args:
        shapes: component -> parameter -> shape; of transformer, connectors, text_projection: what is there.
    """

    def __init__(self, shapes: Mapping[str, Shapes]) -> None:
        self._dotted: dict[str, Place] = {}
        self._underscore: dict[str, Place | None] = {}
        for component, parameters in shapes.items():
            paths: dict[str, None] = {}
            for name in parameters:
                paths[name.removesuffix(".weight").removesuffix(".bias")] = None
            for path in paths:
                self._add(Place(component, path))

    def _add(self, place: Place) -> None:
        official = place.path
        if place.component == "text_projection":
            official = f"text_embedding_projection.{place.path}"
        names = {official, to_diffusers(place.component, place.path)}
        if official.startswith("video_embeddings_connector."):
            names.add(official.removeprefix("video_"))  # musubi's name
        for name in names:
            self._dotted.setdefault(name, place)
            flat = name.replace(".", "_")
            same = self._underscore.setdefault(flat, place) == place
            if not same:
                self._underscore[flat] = None  # two modules of one name: neither is meant

    def find(self, path: str) -> tuple[Place, str] | None:
        """The module that a path of a file means, and the dialect that the path is written in; None: no such module."""
        for prefix in UNDERSCORE_PREFIXES:
            if path.startswith(prefix):
                flat = path.removeprefix(prefix)
                place = self._underscore.get(flat) or self._underscore.get(flat.removeprefix("model_"))
                if place is None:
                    return None
                return place, KOHYA
        dialect = OFFICIAL
        while True:
            if path in self._dotted:
                return self._dotted[path], dialect
            prefix = _prefix_of(path)
            if prefix is None:
                return None
            path = path.removeprefix(prefix)
            if dialect == OFFICIAL:
                dialect = PREFIXES[prefix]

    def find_official(self, path: str) -> Place | None:
        """The module as the official code finds it: ``diffusion_model.`` or nothing before the exact name."""
        bare = path.removeprefix("diffusion_model.")
        place = self._dotted.get(bare)
        if place != Place("transformer", bare):
            return None
        return place
