"""Finds the quantised weights among a file's tensors, whoever wrote them (spec/09 §2).

A quantised layer is a weight with companions (``<layer>.weight_scale`` and the like). `gather` makes one `QuantRef` of
each, so that everything behind it sees one tensor a weight. What cannot be read is refused by name.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ...errors import OverlayError, examples
from ..bytes.header import parse_json, read_small
from ..bytes.source import AnyRef, TensorRef
from .formats import FORMATS, Layer, Unreadable, sniff

# What the formats call their parts -> the canonical name.
_CANONICAL = ("weight_scale", "weight_scale_2", "input_scale", "comfy_quant", "pre_quant_scale", "weight_s_rel",
              "weight_s_channel", "weight_codebook", "weight_correction", "weight_zero", "bias_scale")
PARTS = dict(zip(_CANONICAL, _CANONICAL, strict=True))
PARTS |= {"scale_weight": "weight_scale", "scale_input": "input_scale"}
_MARKER = "scaled_fp8"  # of old ComfyUI files; says nothing that the tensors themselves do not say
METADATA = "_quantization_metadata"
_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
_MAX_JSON = 4096

# Keys of formats that are not read -> their name.
_FOREIGN = ((re.compile(r"\.weight\._(data|scale)$", re.M), "quanto"),
            (re.compile(r"\.(absmax|nested_absmax|quant_map)$|\.quant_state\.", re.M), "bitsandbytes"),
            (re.compile(r"\.(qweight|wscales)$", re.M), "nunchaku (SVDQuant)"),
            (re.compile(r"\.(qzeros|g_idx)$", re.M), "GPTQ or AWQ"),
            (re.compile(r"\.biases$", re.M), "MLX (2 to 8 bits, for Apple's own library)"),
            (re.compile(r"\.(input_global_scale|weight_global_scale)$", re.M),
             "NVFP4 of ModelOpt or lightx2v, which orders the numbers in another way"))


class HeaderLike(Protocol):
    """What `gather` and `layout.match` need to know of a file or of the files of a folder."""

    @property
    def path(self) -> Path:
        """For messages."""

    @property
    def tensors(self) -> Mapping[str, AnyRef]:
        """Name -> tensor, with shape and dtype."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The text entries of the header."""


def gather(header: HeaderLike) -> dict[str, AnyRef]:
    """The file's tensors by name, quantised weights as one each and without their companions.

    Reads the few bytes of ``comfy_quant`` tensors; no other data.

    Raises:
        OverlayError: weights in a format that cannot be read, by name.
    """
    companions: dict[str, dict[str, TensorRef]] = {}
    tensors: dict[str, AnyRef] = {}
    for key, ref in header.tensors.items():
        layer, _, part = key.rpartition(".")
        if part in PARTS and isinstance(ref, TensorRef):
            companions.setdefault(layer, {})[PARTS[part]] = ref
        elif part != _MARKER:
            tensors[key] = ref
    described = _descriptions(header, companions)
    refused: dict[str, list[str]] = {}
    for pattern, name in _FOREIGN:
        found = list(filter(pattern.search, tensors))
        if found:
            refused[name] = found
    for key, ref in list(tensors.items()):
        layer, _, part = key.rpartition(".")
        if part == "weight" and isinstance(ref, TensorRef) and (layer in companions or layer in described or (
                ref.dtype in ("U8", "I8") or ref.dtype.startswith(("F8", "F4", "F6")))):
            try:
                tensors[key] = _layer(layer, ref, companions.get(layer, {}), described.get(layer), bool(companions))
            except Unreadable as error:
                refused.setdefault(str(error), []).append(layer)
    if refused:
        raise _refusal(header.path, refused)
    return tensors


def _layer(name: str, weight: TensorRef, parts: Mapping[str, TensorRef], told: Any,  # noqa: ANN401 (any JSON)
           scaled: bool) -> AnyRef:
    """The dispatch of spec/09 §2.1 for one layer; a weight that is not quantised stays as it is."""
    layer = Layer(name, weight, parts, scaled)
    if told is None:
        return sniff(layer)
    if not isinstance(told, dict):
        raise Unreadable("a damaged comfy_quant entry")
    parameters = told.get("params")
    if isinstance(parameters, dict):
        told = {**parameters, **told}
    if told.get("format") is None:  # ComfyUI-INT8-Fast wrote none before August 2026
        return sniff(layer, told)
    if not isinstance(told["format"], str):
        raise Unreadable("a damaged comfy_quant entry")
    if told["format"] not in FORMATS:
        raise Unreadable(f"the format {told['format'][:40]!r}")
    return FORMATS[told["format"]](layer, told)


def _descriptions(header: HeaderLike, companions: Mapping[str, Mapping[str, TensorRef]]) -> dict[str, Any]:
    """Layer -> what ``comfy_quant`` or the metadata say of it; the tensor wins."""
    told: dict[str, Any] = {}
    if METADATA in header.metadata:
        try:
            layers = parse_json(header.metadata[METADATA])["layers"]
            for name, entry in layers.items():
                for full in _under_every_prefix(name):
                    if f"{full}.weight" in header.tensors:
                        told[full] = entry
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise OverlayError(f"the metadata {METADATA!r} of {header.path} cannot be read ({error})",
                               "a table of layers and formats as ComfyUI writes it",
                               "Download the file again, or use another quantisation.") from error
    quant = {}
    for layer, parts in companions.items():
        if "comfy_quant" in parts:
            quant[layer] = parts["comfy_quant"]
    for layer, data in read_small(quant, _MAX_JSON).items():
        try:
            told[layer] = parse_json(data.decode())
        except ValueError:
            told[layer] = ()  # refused with the layer's name
    return told


def _under_every_prefix(name: str) -> list[str]:
    """What a layer can be called: the metadata and the tensors may stand under different prefixes."""
    bare = name
    for prefix in _PREFIXES:
        if prefix and name.startswith(prefix):
            bare = name.removeprefix(prefix)
    return [prefix + bare for prefix in _PREFIXES]


def _refusal(path: Path, refused: Mapping[str, list[str]]) -> OverlayError:
    reasons = []
    for reason, layers in refused.items():
        reasons.append(f"{reason}: {len(layers)} weights ({examples(layers)})")
    return OverlayError(f"{path} has quantised weights that cannot be read: {'; '.join(reasons)}",
                        "bf16, or fp8, MXFP8, NVFP4, int8 as Lightricks and ComfyUI write them",
                        "Use an fp8 file, for example ltx-2.3-22b-dev-fp8.safetensors of "
                        "huggingface.co/Lightricks/LTX-2.3-fp8 (29 GB), or the bf16 one.")
