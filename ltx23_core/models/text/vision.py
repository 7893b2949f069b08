"""Gemma 3's eyes: the SigLIP tower and its projector, by transformers, to enhance a prompt to a picture (spec/03 §6).

An overlay keeps these tensors under the names of their file, which differ by writer: with and without ``model.``,
``vision_tower.`` and ``vision_model.`` (spec/09 §4). transformers' own modules differ by release in the same way, so
tensor and parameter meet by what is left of both names: `vision_tensors`.
"""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import OverlayError, reason
from ._transformers import transformers_class
from .gemma import config_fields, refuse_unknown_buffers

_LEVELS = re.compile(r"^(model\.)?(vision_tower\.)?(vision_model\.)?")
_MAX_SIZE = 1 << 16  # of any number in the configuration; more is a damaged file
# SigLIP so400m/14 at 896 pixels, as in every Gemma 3 that sees; single files come without a configuration.
_SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
           "image_size": 896, "patch_size": 14}
# Of Gemma 3's vocabulary: begin and end of a picture, and the place that one of its features takes.
_TOKENS = {"boi_token_index": 255_999, "eoi_token_index": 256_000, "image_token_index": 262_144}


def _given_or(given: Mapping[str, Any], defaults: Mapping[str, int]) -> dict[str, Any]:
    return {name: given.get(name, default) for name, default in defaults.items()}


def _all_between(numbers: tuple[object, ...], low: int, end: float) -> bool:
    """Whole numbers alone, each from ``low`` to below ``end``."""
    return all(type(number) is int and low <= number < end for number in numbers)


@dataclass(frozen=True)
class VisionConfig:
    """What a picture is to a Gemma 3.

    Attributes:
        tower: fields of transformers' SiglipVisionConfig.
        features: features, and so tokens, of a picture.
        begin, end, place: ids of the tokens before, behind and for the features.
    """

    tower: dict[str, int]
    features: int
    begin: int
    end: int
    place: int

    @property
    def patches(self) -> int:
        """Patches of a picture, before they are averaged into features."""
        return (self.tower["image_size"] // self.tower["patch_size"]) ** 2

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VisionConfig:
        """From the text encoder's config.json; values that it lacks are those of Gemma 3 12B.

        Raises:
            OverlayError: sizes that no model has.
        """
        given = config.get("vision_config") or {}
        try:
            tower = _given_or(given, _SIGLIP)
            features = config.get("mm_tokens_per_image", 256)
            begin, end, place = _given_or(config, _TOKENS).values()
            numbers = (*tower.values(), features)
            if not _all_between(numbers, 1, _MAX_SIZE) or math.isqrt(features) ** 2 != features:
                raise ValueError(f"sizes {numbers}")
            if not _all_between((begin, end, place), 0, math.inf):
                raise ValueError(f"tokens {begin}, {end}, {place}")
            found = cls(tower, features, begin, end, place)
            if found.patches < features or tower["hidden_size"] % tower["num_attention_heads"]:
                raise ValueError(f"sizes {numbers}")
        except (AttributeError, TypeError, ValueError) as error:
            raise OverlayError(f"the config of text_encoder_vision cannot be used ({reason(error)})",
                               "that of a Gemma 3",
                               "Download the text encoder's config.json again and make the overlay again.") from error
        return found


def seeing_model(config: Mapping[str, Any]) -> nn.Module:
    """transformers' ``Gemma3ForConditionalGeneration``, every parameter on the meta device.

    Args:
        config: the text encoder's config.json.
    """
    vision = VisionConfig.from_dict(config)
    tower = {**vision.tower, "model_type": "siglip_vision_model", "vision_use_head": False}
    whole = transformers_class("Gemma3Config")(
        text_config=config_fields(config), vision_config=tower, mm_tokens_per_image=vision.features,
        boi_token_index=vision.begin, eoi_token_index=vision.end, image_token_index=vision.place,
        attn_implementation="sdpa")
    with torch.device("meta"):
        return transformers_class("Gemma3ForConditionalGeneration")(whole).eval().requires_grad_(False)


class VisionEncoder(nn.Module):
    """``vision_tower`` and ``multi_modal_projector`` of a Gemma 3, without the language model."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build both on the meta device; ``config`` as for `seeing_model`."""
        super().__init__()
        model = seeing_model(config)
        model = getattr(model, "model", model)  # one level deeper since transformers 4.52
        self.vision_tower, self.multi_modal_projector = model.vision_tower, model.multi_modal_projector


def restore_positions(encoder: nn.Module, device: torch.device) -> None:
    """Put the numbers of the patches, which no checkpoint holds, on the device; to be called after each load."""
    for module in encoder.modules():
        if "position_ids" in module._buffers:
            count = module.position_embedding.weight.shape[0]
            module.position_ids = torch.arange(count, device=device)[None]
    refuse_unknown_buffers(encoder)


def vision_tensors(encoder: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A file's tensors under the parameter names of the module.

    Args:
        encoder: from `VisionEncoder`.
        tensors: of the overlay's component ``text_encoder_vision``; others than those of tower and projector are
            left out.

    Raises:
        OverlayError: some are not there.
    """
    bare = {_LEVELS.sub("", name): ref for name, ref in tensors.items()}
    found, missing = {}, []
    for name in encoder.state_dict():
        short = _LEVELS.sub("", name)
        if short in bare:
            found[name] = bare[short]
        else:
            missing.append(short)
    if missing:
        raise OverlayError(
            f"the text encoder's file has {len(found)} of the {len(found) + len(missing)} tensors that see pictures "
            f"(there is no {missing[0]})",
            "a Gemma 3 with its vision tower",
            "Use the folder of google/gemma-3-12b-it-qat-q4_0-unquantized, or enhance without an image.",
        )
    return found
