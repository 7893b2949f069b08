"""The quantised formats: which parts a layer must have, of which shapes (spec/09 §2.1 to §2.7). No data is read.

Arithmetic is in `weights.dequant`, under the same names.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType
from typing import Any

from ..bytes.ggml import GGUF_FORMATS
from ..bytes.source import AnyRef, QuantRef, TensorRef

FP8 = ("F8_E4M3", "F8_E5M2")
FLOATS = ("F32", "F16", "BF16")
# Padding of rows and columns in the file; the true shape is the model's, never that of the packed tensor.
PADDING = {"mxfp8": 32, "nvfp4": 16}
QUANT_FORMATS = ("fp8", "mxfp8", "nvfp4", "int8", "int4", "w4a8", "awq", *GGUF_FORMATS)


class Unreadable(Exception):
    """A layer that is in no known format; the text says what it is, and is equal for equal layers."""


@dataclass(frozen=True)
class Layer:
    """One layer of a file that may be quantised.

    Args:
        name: of the layer in the file.
        weight: the packed weight.
        parts: its companions, by canonical name.
        scaled: whether the file has scales at all.
    """

    name: str
    weight: TensorRef
    parts: Mapping[str, TensorRef]
    scaled: bool

    def ref(self, format: str, shape: tuple[int, ...], *names: str, **parameters: bool | int) -> QuantRef:
        """The quantised weight with these parts, which must be there; an input scale comes along."""
        missing = [name for name in names if name not in self.parts]
        if missing:
            raise Unreadable(f"{format} without {', '.join(missing)}")
        if "pre_quant_scale" in self.parts:
            raise Unreadable(f"{format} with pre_quant_scale")
        if len(shape) != 2:
            raise Unreadable(f"{format} in a tensor of {len(shape)} dimensions")
        kept = {"weight": self.weight}
        for name in (*names, "input_scale"):
            if name in self.parts:
                kept[name] = self.parts[name]
        return QuantRef(format, shape, kept, parameters)

    def shape_of(self, name: str, *allowed: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a part, which must be one of these."""
        weight = f"a weight of {self.weight.dtype} {list(self.weight.shape)}"
        if name not in self.parts:
            raise Unreadable(f"{name} of shape None for {weight}")
        shape = self.parts[name].shape
        if shape not in allowed:
            raise Unreadable(f"{name} of shape {list(shape)} for {weight}")
        return shape

    def must_be(self, name: str, *dtypes: str) -> None:
        """Refuse a part (or the weight) of another dtype."""
        ref = self.parts.get(name)
        if name == "weight":
            ref = self.weight
        if ref is not None and ref.dtype not in dtypes:
            raise Unreadable(f"a {name} of {ref.dtype}")


def roundup(value: int, step: int) -> int:
    """The next multiple."""
    return -(-value // step) * step


def sniff(layer: Layer, told: Mapping[str, Any] = MappingProxyType({})) -> AnyRef:
    """The format of a layer that does not name it, by dtypes (spec/09 §2.1, 3 to 7).

    Args:
        layer: the layer.
        told: what it says of itself nevertheless, for example whether its rows are rotated.
    """
    weight, scale = layer.weight, layer.parts.get("weight_scale")
    if weight.dtype in FLOATS:
        return weight  # some converters write a scale of 1 beside weights that they did not quantise
    if weight.dtype in FP8:
        if scale is None:
            if layer.scaled and len(weight.shape) == 2 and not layer.name.endswith("embed_tokens"):
                raise Unreadable("fp8 without its scale, in a file that has scales")
            return weight  # a plain cast: the scale is 1
        if scale.dtype in ("U8", "F8_E8M0"):
            return _mxfp8(layer, told)
        return _fp8(layer, told)
    if weight.dtype == "U8" and "weight_scale_2" in layer.parts:
        return _nvfp4(layer, told)
    if weight.dtype == "I8" and scale is not None:
        if isinstance(told.get("convrot"), bool):
            return _int8(layer, told)
        raise Unreadable("int8 that does not say whether its rows are rotated")
    raise Unreadable(f"{weight.dtype} of an unknown format")


def _fp8(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    """§2.2: one scale, one for each row, or one for each square of 128 rows and columns.

    ComfyUI's embeddings may have none.
    """
    if layer.weight.dtype in FLOATS:
        return layer.weight
    layer.must_be("weight", *FP8)
    if "weight_scale" not in layer.parts:
        return sniff(layer)
    layer.must_be("weight_scale", *FLOATS)
    rows = layer.weight.shape[0] if layer.weight.shape else 1
    squares = tuple(-(-side // 128) for side in layer.weight.shape)
    layer.shape_of("weight_scale", (), (1,), (1, 1), (rows,), (rows, 1), squares)
    parameters = {}
    if told.get("full_precision_matrix_mult") is True:  # a wish to ComfyUI: multiply numbers, not fp8 codes
        parameters["full_precision"] = True
    return layer.ref("fp8", layer.weight.shape, "weight_scale", **parameters)


def _swizzled(layer: Layer, rows: int, columns: int) -> None:
    """§2.6.1: scales in tiles of 128x4; their two dimensions are only a view."""
    want = roundup(rows, 128) * roundup(columns, 4)
    if prod(layer.parts["weight_scale"].shape) != want:
        raise Unreadable(f"block scales of shape {list(layer.parts['weight_scale'].shape)} for {rows} rows of "
                         f"{columns} blocks")


def _retyped(layer: Layer, **dtypes: str) -> Layer:
    """Parts under the dtype whose bits they are; all of one byte."""
    parts = dict(layer.parts)
    for name, dtype in dtypes.items():
        if name in parts:
            parts[name] = replace(parts[name], dtype=dtype)
    return replace(layer, parts=parts)


def _mxfp8(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    """§2.5: blocks of 32 with an exponent each."""
    layer.must_be("weight", "F8_E4M3")
    layer.must_be("weight_scale", "U8", "F8_E8M0")
    ref = _retyped(layer, weight_scale="U8").ref("mxfp8", layer.weight.shape, "weight_scale")
    rows, columns = ref.shape
    if columns % 32:
        raise Unreadable(f"mxfp8 with rows of {columns} numbers")
    _swizzled(layer, rows, columns // 32)
    return ref


def _nvfp4(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    """§2.6: two numbers a byte, blocks of 16 with an e4m3 scale each, and one scale for all."""
    layer.must_be("weight", "U8")
    layer.must_be("weight_scale", "F8_E4M3", "U8")
    layer.must_be("weight_scale_2", "F32")
    shape = (*layer.weight.shape[:-1], 2 * layer.weight.shape[-1]) if layer.weight.shape else ()
    ref = _retyped(layer, weight_scale="F8_E4M3").ref("nvfp4", shape, "weight_scale", "weight_scale_2")
    layer.shape_of("weight_scale_2", (), (1,), (1, 1))
    if shape[1] % 16:
        raise Unreadable(f"nvfp4 with rows of {shape[1]} numbers")
    _swizzled(layer, shape[0], shape[1] // 16)
    return ref


def _group(told: Mapping[str, Any], key: str, default: int) -> int:
    value = told.get(key, default)
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise Unreadable(f"{key} {value!r}")
    return value


def _rotation(told: Mapping[str, Any], columns: int, always: bool = False) -> dict[str, int]:
    """§2.7: the size of the rotated groups, a power of 4 that divides the row; nothing where rows are not rotated."""
    if not (always or told.get("convrot")):
        return {}
    group = _group(told, "convrot_groupsize", 256)
    if 4 ** ((group.bit_length() - 1) // 2) != group or columns % group:
        raise Unreadable(f"rows of {columns} numbers rotated in groups of {group}")
    return {"rotated": group}


def _int8(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    layer.must_be("weight", "I8")
    layer.must_be("weight_scale", *FLOATS)
    ref = layer.ref("int8", layer.weight.shape, "weight_scale")
    rows, columns = ref.shape
    layer.shape_of("weight_scale", (), (1,), (1, 1), (rows,), (rows, 1))
    return replace(ref, parameters=_rotation(told, columns))


def _halves(layer: Layer) -> tuple[int, int]:
    """Rows and numbers in a row, of two numbers a byte."""
    layer.must_be("weight", "I8", "U8")
    if len(layer.weight.shape) != 2:
        raise Unreadable(f"4-bit numbers in a tensor of {len(layer.weight.shape)} dimensions")
    return layer.weight.shape[0], 2 * layer.weight.shape[1]


def _int4(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    rows, columns = _halves(layer)
    layer.must_be("weight_scale", *FLOATS)
    layer.shape_of("weight_scale", (rows,), (rows, 1))
    layer = replace(layer, weight=replace(layer.weight, dtype="U8"))
    return layer.ref("int4", (rows, columns), "weight_scale", **_rotation(told, columns, always=True))


def _w4a8(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    """4-bit codes, relative scales of groups, and one scale for each row. The form with 6 bits has other sizes."""
    rows, columns = _halves(layer)
    if told.get("padded_in_features") not in (None, columns):
        raise Unreadable("asym_w4a8_int8 with padded rows")
    group = _group(told, "group_size", 16)
    layer.must_be("weight_s_rel", "F8_E4M3", "F32")
    layer.must_be("weight_s_channel", "F32")
    if columns % group:
        raise Unreadable(f"groups of {group} in rows of {columns} numbers")
    layer.shape_of("weight_s_rel", (rows, columns // group))
    layer.shape_of("weight_s_channel", (rows,), (rows, 1))
    names = ["weight_s_rel", "weight_s_channel"]
    for name, shape in (("weight_codebook", (16,)), ("weight_correction", (columns // group, rows))):
        if name in layer.parts:
            layer.must_be(name, *FLOATS)
            layer.shape_of(name, shape)
            names.append(name)
    layer = replace(layer, weight=replace(layer.weight, dtype="U8"))
    return layer.ref("w4a8", (rows, columns), *names, group=group, **_rotation(told, columns, always=True))


def _awq(layer: Layer, told: Mapping[str, Any]) -> AnyRef:
    rows, columns = _halves(layer)
    group = _group(told, "group_size", 64)
    for name in ("weight_scale", "weight_zero"):
        layer.must_be(name, *FLOATS)
        layer.shape_of(name, (columns // group, rows))
    layer = replace(layer, weight=replace(layer.weight, dtype="U8"))
    return layer.ref("awq", (rows, columns), "weight_scale", "weight_zero", group=group)


# What `comfy_quant` calls a format -> its reader (§2.3).
FORMATS: dict[str, Callable[[Layer, Mapping[str, Any]], AnyRef]] = {
    "float8_e4m3fn": _fp8, "float8_e5m2": _fp8, "mxfp8": _mxfp8, "nvfp4": _nvfp4, "int8_tensorwise": _int8,
    "convrot_w4a4": _int4, "int4_tensorwise": _int4, "asym_w4a8_int8": _w4a8, "awq_w4a16": _awq,
}


def fitted(ref: AnyRef, shape: tuple[int, ...]) -> AnyRef:
    """A quantised weight in the model's shape, if that is what its padded parts hold; else the same."""
    if not isinstance(ref, QuantRef) or len(shape) != 2 or ref.format not in PADDING:
        return ref
    step = PADDING[ref.format]
    if tuple(roundup(n, step) for n in shape) != ref.shape:
        return ref
    return replace(ref, shape=shape)


def fitted_all(tensors: Mapping[str, AnyRef], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, AnyRef]:
    """`fitted` for every tensor of a component; a name that the model does not have keeps its shape."""
    return {name: fitted(ref, shapes.get(name, ())) for name, ref in tensors.items()}
