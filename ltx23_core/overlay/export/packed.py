"""Quantised weights in an export: their parts byte for byte, and in the metadata what they are (spec/09 §2.3, §2.4).

Whatever the source calls its parts, the export has the newer names, and every layer stands in the metadata
``_quantization_metadata``: ComfyUI and our own reader need no guessing.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import ExportError
from ..bytes.source import AnyRef, QuantRef, TensorRef
from ..packed.formats import FP8
from ..packed.layers import METADATA

# Our format -> the name in the metadata; fp8 is named after the weight's dtype.
_NAMES = {"mxfp8": "mxfp8", "nvfp4": "nvfp4", "int8": "int8_tensorwise", "int4": "convrot_w4a4",
          "w4a8": "asym_w4a8_int8", "awq": "awq_w4a16"}
_FP8_NAMES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_PACKED = ("int4", "w4a8")  # whose weights ComfyUI stores as I8
CARRIED = ("fp8", *_NAMES)


def unpacked(tensors: Mapping[str, AnyRef],
             metadata: Mapping[str, str]) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Tensors and metadata of a file, a quantised weight as its parts.

    Args:
        tensors: key -> weight; quantised ones in a format of `CARRIED`.
        metadata: of the file, less what it says of quantisation.

    Raises:
        ExportError: one file cannot hold these weights.
    """
    plain, told = in_parts(tensors, metadata)
    if METADATA in told:
        _refuse_cast(tensors)
    return plain, told


def in_parts(tensors: Mapping[str, AnyRef],
             metadata: Mapping[str, str]) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """The same, of what need not be one file."""
    plain: dict[str, TensorRef] = {}
    layers: dict[str, dict[str, Any]] = {}
    for key, ref in tensors.items():
        if isinstance(ref, TensorRef):
            plain[key] = ref
            continue
        layer = key.removesuffix(".weight")
        layers[layer] = description(ref)
        for name, part in ref.parts.items():
            if name == "weight" and ref.format in _PACKED:
                part = replace(part, dtype="I8")
            plain[f"{layer}.{name}"] = part
    kept = dict(metadata)
    kept.pop(METADATA, None)
    if layers:
        kept[METADATA] = json.dumps({"format_version": "1.0", "layers": layers}, sort_keys=True)
    return plain, kept


def _refuse_cast(tensors: Mapping[str, AnyRef]) -> None:
    """No file holds fp8 with scales and fp8 without."""
    for key, ref in tensors.items():
        if ref.dtype in FP8 and len(ref.shape) == 2 and not key.endswith("embed_tokens.weight"):
            raise ExportError(f"{key} is fp8 without a scale, and other weights of the same file have scales",
                              "one kind of fp8 in a file: readers take a missing scale for damage",
                              "Make the overlay of files that are quantised alike, and export again.")


def description(ref: QuantRef) -> dict[str, Any]:
    """What the metadata say of one layer, of a format of `CARRIED`."""
    told: dict[str, Any] = {"format": _NAMES.get(ref.format) or _FP8_NAMES[ref.parts["weight"].dtype]}
    if ref.parameters.get("full_precision"):
        told["full_precision_matrix_mult"] = True
    if "group" in ref.parameters:
        told["group_size"] = ref.parameters["group"]
    if "rotated" in ref.parameters:
        told |= {"convrot": True, "convrot_groupsize": ref.parameters["rotated"]}
    return told
