"""Triton form of `weights.dequant` for the formats whose numbers are codes times scales: one pass, bits equal."""
from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import ggml
from .numbers import e4m3
from .rotated import SIZES, awq, unrotated, w4a8

BLOCK = 2048
SQUARE = 128  # rows and columns that share a scale in blockwise fp8
E4M3, E5M2, INT8, E2M1 = 0, 1, 2, 3
_KINDS = {torch.float8_e4m3fn: E4M3, torch.float8_e5m2: E5M2, torch.int8: INT8}
_BLOCKS = {"mxfp8": 32, "nvfp4": 16}  # numbers of a row that share a scale


@triton.jit
def _value(byte, KIND: tl.constexpr):
    """Float32 of a stored byte, as an int32 from 0 to 255."""
    code = byte
    if KIND == 0:
        return e4m3(code)
    elif KIND == 1:
        return (code << 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return ((code ^ 128) - 128).to(tl.float32)


@triton.jit
def _scaled(weight, scale, out, columns, stored, across, SQUARE: tl.constexpr, SCALES: tl.constexpr, KIND: tl.constexpr,
            BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < columns
    code = tl.load(weight + row * stored + place, mask=inside, other=0).to(tl.int32)
    if SCALES == 0:
        value = _value(code, KIND)
    else:
        at = place * 0
        if SCALES == 2:
            at += row
        elif SCALES == 3:
            at += (row // SQUARE) * across + place // SQUARE
        factor = tl.load(scale + at, mask=inside, other=0).to(tl.float32)
        value = _value(tl.where(factor == 0, 0, code), KIND) * factor  # 0 however a quantiser left it
    tl.store(out + row * columns + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _blockwise(weight, scale, whole, out, columns, stored, across, SIZE: tl.constexpr, KIND: tl.constexpr,
               BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < columns
    column = place // SIZE
    # Scales lie in tiles of 128 rows and 4 columns (spec/09 §2.6.1).
    at = ((row // 128) * across + column // 4) * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + column % 4
    factor = tl.load(scale + at, mask=inside, other=0).to(tl.int32)
    if KIND == 3:
        byte = tl.load(weight + row * stored + place // 2, mask=inside, other=0).to(tl.int32)
        code = (byte >> (4 - 4 * (place % 2))) & 15  # the even column is the high half
        size = code & 7
        bits = tl.where(size < 2, size * 0x3F000000, (size << 22) + (126 << 23))
        value = (bits | ((code & 8) << 28)).to(tl.float32, bitcast=True)
        second = tl.load(whole).to(tl.float32)
        value = value * e4m3(tl.where(second == 0, 0, factor)) * second
    else:
        code = tl.load(weight + row * stored + place, mask=inside, other=0).to(tl.int32)
        value = _value(tl.where(factor == 0, 0, code), KIND)
        value = value * (factor << 23).to(tl.float32, bitcast=True)
    tl.store(out + row * columns + place, value.to(out.dtype.element_ty), mask=inside)


def fits(format: str, parts: Mapping[str, Tensor], parameters: Mapping[str, object]) -> bool:
    """Whether the kernels can make the numbers of a format; others are made in torch."""
    weight, scale = parts["weight"], parts.get("weight_scale")
    if weight.dim() != 2 or not all(part.is_contiguous() for part in parts.values()):
        return False
    if format in (*ggml.KINDS, "nvfp4", "awq"):
        return weight.dtype == torch.uint8
    if format == "mxfp8":
        return weight.dtype in _KINDS
    rotated = parameters.get("rotated")
    if format == "w4a8":
        return rotated in SIZES and "weight_correction" not in parts
    if format == "int4" or (format == "int8" and rotated):
        return rotated in SIZES
    return format in ("fp8", "int8") and weight.dtype in _KINDS and (
        scale is None or _scales(weight, scale) is not None)


def _scales(weight: Tensor, scale: Tensor) -> int | None:
    """What has a scale: 1 the whole, 2 each row, 3 each square; None: something else."""
    if scale.numel() == 1:
        return 1
    rows, squares = weight.shape[0], tuple(-(-side // SQUARE) for side in weight.shape)
    if tuple(scale.shape) in ((rows,), (rows, 1)):
        return 2
    return 3 if tuple(scale.shape) == squares else None


def dequantise(format: str, parts: Mapping[str, Tensor], parameters: Mapping[str, object], out: Tensor,
               signs: Tensor | None = None) -> Tensor:
    """Fill ``out`` (rows, columns), contiguous; padded rows and columns are left out.

    Args:
        signs: of the rotation, ±1 in float16, where rows are rotated.
    """
    if format in ggml.KINDS:
        return ggml.dequantise(format, parts["weight"], out)
    if format == "awq":
        return awq(parts, int(parameters["group"]), out)
    if format == "w4a8":
        return w4a8(parts, int(parameters["group"]), signs, out)
    if signs is not None:
        return unrotated(parts["weight"], parts["weight_scale"], signs, format == "int4", out)
    return _scales_and_codes(format, parts, out)


def _scales_and_codes(format: str, parts: Mapping[str, Tensor], out: Tensor) -> Tensor:
    """The formats whose numbers are a code times a scale."""
    weight, scale = parts["weight"], parts.get("weight_scale")
    rows, columns = out.shape
    grid = rows, triton.cdiv(columns, BLOCK)
    stored, codes = weight.shape[1], weight.view(torch.uint8)
    if format not in _BLOCKS:
        kind = 0 if scale is None else _scales(weight, scale)
        _scaled[grid](codes, codes if scale is None else scale, out, columns, stored, -(-stored // SQUARE),
                      SQUARE=SQUARE, SCALES=kind, KIND=_KINDS[weight.dtype], BLOCK=BLOCK, num_warps=4)
        return out
    four = format == "nvfp4"
    size = _BLOCKS[format]
    across = -(-(stored * (2 if four else 1) // size) // 4)
    _blockwise[grid](codes, scale.view(torch.uint8), parts["weight_scale_2"] if four else codes, out, columns, stored,
                     across, SIZE=size, KIND=E2M1 if four else _KINDS[weight.dtype], BLOCK=BLOCK, num_warps=4)
    return out
