"""What a stored tensor takes on a device: the one answer for the loader, for the room and for the automatic choice.

Only forms and shapes are asked, no data and no torch, so that a header alone tells what loading it would cost.
"""
from __future__ import annotations

from math import prod

from ..bytes.ggml import GGUF_FORMATS, READABLE
from ..bytes.source import DTYPE_BITS, AnyRef, QuantRef, TensorRef
from .formats import FP8

NUMBER = 2  # bytes of a number on the device: bfloat16
# Format -> the parts beside the weight that its arithmetic uses; others (an input scale) are not read.
USED: dict[str, tuple[str, ...]] = {
    "fp8": ("weight_scale",), "mxfp8": ("weight_scale",), "nvfp4": ("weight_scale", "weight_scale_2"),
    "int8": ("weight_scale",), "int4": ("weight_scale",),
    "w4a8": ("weight_s_rel", "weight_s_channel", "weight_codebook", "weight_correction"),
    "awq": ("weight_scale", "weight_zero"), **dict.fromkeys(GGUF_FORMATS, ()),
}
# Formats that stay packed on the device (`quant.layers`); of a table only those of which single rows can be made.
STAY = frozenset(USED)
BY_ROW = ("fp8", *READABLE)
_FLOATS = ("F64", "F32", "F16", "BF16")


def as_quantised(ref: AnyRef) -> QuantRef | None:
    """A weight as quantised one: a plain cast to fp8 is the format fp8 without scale; None: it is not quantised."""
    if isinstance(ref, QuantRef):
        return ref
    if ref.dtype not in FP8:
        return None
    return QuantRef("fp8", ref.shape, {"weight": ref})


def kept_parts(ref: QuantRef) -> dict[str, TensorRef]:
    """The parts that are kept on the device: all that the arithmetic uses."""
    kept = {}
    for name in ("weight", *USED[ref.format]):
        if name in ref.parts:
            kept[name] = ref.parts[name]
    return kept


def stays_quantised(name: str, ref: AnyRef) -> bool:
    """Whether a tensor stays quantised on the device: matrices of layers do; tables and vectors become numbers.

    Args:
        name: of the parameter.
        ref: as it is stored.
    """
    quantised = as_quantised(ref)
    if quantised is None or not name.endswith(".weight") or len(ref.shape) != 2:
        return False
    if name.endswith("embed_tokens.weight"):
        return quantised.format in BY_ROW and not _in_squares(quantised)
    return quantised.format in STAY


def _in_squares(ref: QuantRef) -> bool:
    """Whether scales belong to squares of a weight (fp8, 128x128), of which no single row can be made."""
    scale = ref.parts.get("weight_scale")
    return scale is not None and prod(scale.shape) != 1 and scale.shape[0] != ref.shape[0]


def bytes_on_device(name: str, ref: AnyRef, number: int = NUMBER) -> int:
    """Bytes of one tensor on a device: quantised as it is kept, all else in numbers; integers stay as they are.

    Args:
        name: of the parameter.
        ref: as it is stored.
        number: bytes of a number there.
    """
    if stays_quantised(name, ref):
        return sum(part.size_bytes for part in kept_parts(as_quantised(ref)).values())
    if isinstance(ref, TensorRef) and ref.dtype in DTYPE_BITS and ref.dtype not in (*_FLOATS, *FP8):
        return ref.size_bytes
    return prod(ref.shape) * number
