"""Quantised weights back to numbers: pure torch, one function a format, by the formulas of spec/09 §2.

A format's function prepares small tensors (scales) and gives a function from rows to their values in float32. Rows
are made in groups, so that no float32 copy of a whole weight is needed; the one rounding to the wanted dtype is last.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from ..ops.pick import kernels
from ..overlay.bytes.ggml import GGUF_FORMATS
from ..overlay.bytes.source import Parameter
from ..overlay.packed.sizes import USED
from . import ggml

Parts = Mapping[str, Tensor]
Rows = Callable[[slice], Tensor]  # rows of the stored weight -> float32 (rows, stored columns)

SQUARE = 128  # rows and columns that share a scale in blockwise fp8
GROUP = 1 << 24  # numbers made at once: 64 MB in float32
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantise(format: str, parts: Parts, parameters: Mapping[str, Parameter], shape: tuple[int, ...],
               dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """The weight that quantised parts stand for.

    Args:
        format: a key of `FORMATS`.
        parts: by canonical name, on one device, as stored.
        parameters: of the format.
        shape: (out, in); padded rows and columns are cut.
        dtype: of the result.
        out: where it is made, contiguous; None: in memory of its own.
    """
    weight = parts["weight"]
    module = kernels("dequant", weight)
    is_fast = module is not None and module.fits(format, parts, parameters)
    if format in GGUF_FORMATS and not is_fast:
        made = ggml.numbers(format, weight, dtype)
        return made if out is None else out.copy_(made)
    result = torch.empty(shape, dtype=dtype, device=weight.device) if out is None else out
    if is_fast:
        signs = None
        if parameters.get("rotated"):
            signs = _signs(int(parameters["rotated"]), weight.device)
        return module.dequantise(format, parts, parameters, result, signs)
    rows, (count, columns) = FORMATS[format](parts, parameters), shape
    step = max(1, GROUP // max(1, columns))
    for start in range(0, count, step):
        at = slice(start, min(start + step, count))
        result[at] = rows(at)[:, :columns]
    return result


def needed(format: str) -> tuple[str, ...]:
    """Parts that the arithmetic uses; others (an input scale) need not be read."""
    return ("weight", *USED[format])


def _scale(scale: Tensor) -> Callable[[slice], Tensor]:
    """One scale, or one for each row, as something to multiply rows with."""
    flat = scale.float().reshape(-1)
    return (lambda at: flat) if flat.numel() == 1 else lambda at: flat[at, None]


def _squares(scale: Tensor, weight: Tensor) -> Callable[[slice], Tensor] | None:
    """Blockwise: one scale for each square of 128 rows and columns, as factors of rows; None: of another kind."""
    rows, columns = weight.shape
    shape = tuple(scale.shape)
    if scale.numel() == 1 or shape == (rows, 1) or shape != (-(-rows // SQUARE), -(-columns // SQUARE)):
        return None

    def factors(at: slice) -> Tensor:
        square = torch.arange(at.start, at.stop, device=scale.device) // SQUARE
        return scale[square].float().repeat_interleave(SQUARE, dim=1)[:, :columns]

    return factors


def _fp8(parts: Parts, _: Mapping[str, Parameter]) -> Rows:
    """§2.2: W = q s; without a scale, what was cast to fp8 and no more.

    Where s is 0, q may be NaN (0/0 of the quantiser), and W is 0.
    """
    weight = parts["weight"]
    if "weight_scale" not in parts:
        return lambda at: weight[at].float()
    scale = _squares(parts["weight_scale"], weight) or _scale(parts["weight_scale"])
    return lambda at: _without_nan(weight[at], scale(at)).float() * scale(at)


def _without_nan(numbers: Tensor, scale: Tensor) -> Tensor:
    """fp8 numbers, 0 where the scale is 0; done on their bytes, which are a quarter of the floats."""
    return (numbers.view(torch.uint8) * (scale != 0)).view(numbers.dtype)


def unswizzled(scale: Tensor, rows: int, columns: int) -> Tensor:
    """§2.6.1: block scales out of tiles of 128x4, (rows, columns)."""
    across = -(-columns // 4)
    tiles = scale.reshape(-1, across, 32, 4, 4)  # tile row, tile column, row mod 32, row mod 128 div 32, column mod 4
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1, across * 4)[:rows, :columns]


def _mxfp8(parts: Parts, _: Mapping[str, Parameter]) -> Rows:
    """§2.5: W = q 2^(e - 127) in blocks of 32; e = 0 means 0."""
    weight = parts["weight"]
    count, columns = weight.shape
    exponent = unswizzled(parts["weight_scale"], count, columns // 32)
    scale = (exponent.int() << 23).view(torch.float32)  # the same exponent in float32, zero included

    def rows(at: slice) -> Tensor:
        numbers = weight[at].unflatten(1, (-1, 32))
        return (_without_nan(numbers, scale[at][..., None]).float() * scale[at][..., None]).flatten(1)

    return rows


def _blocks(numbers: Tensor, scale: Tensor, size: int) -> Tensor:
    """Multiply each block of a row by its scale."""
    return (numbers.unflatten(1, (-1, size)) * scale[..., None]).flatten(1)


@cache
def _e2m1(device: torch.device) -> Tensor:
    return torch.tensor([*E2M1, *(-value for value in E2M1)], device=device)


def _nvfp4(parts: Parts, _: Mapping[str, Parameter]) -> Rows:
    """§2.6: W = e2m1 scale(block of 16) scale2; the even column is the high half of a byte.

    Where scale2 is 0, the scales of the blocks may be NaN (0/0 of the quantiser), and W is 0.
    """
    weight, values = parts["weight"], _e2m1(parts["weight"].device)
    count, columns = weight.shape[0], 2 * weight.shape[1]
    scale = unswizzled(parts["weight_scale"].view(torch.uint8), count, columns // 16).contiguous()
    whole = parts["weight_scale_2"].float().reshape(())
    scale = (scale * (whole != 0)).view(torch.float8_e4m3fn).float()

    def rows(at: slice) -> Tensor:
        packed = weight[at]
        codes = torch.stack((packed >> 4, packed & 15), dim=2).flatten(1)
        return _blocks(values[codes.int()], scale[at], 16) * whole

    return rows


@cache
def hadamard(size: int, device: torch.device) -> Tensor:
    """§2.7: the rotation of a group, symmetric and its own inverse: Kronecker power of H4 over √size."""
    base = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float32)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, base)
    return (matrix / size ** 0.5).to(device)


@cache
def _signs(size: int, device: torch.device) -> Tensor:
    """Of the rotation, whose numbers are ±1/√size."""
    return hadamard(size, device).sign().half()


def _unrotated(numbers: Tensor, size: Parameter | None) -> Tensor:
    """Rotate the groups of each row back.

    Exact for whole numbers of 8 bits, also where the user allows TF32: their products with ±1/√size fit into it, and
    their sums stay below 2^24.
    """
    if not size:
        return numbers
    matrix = hadamard(int(size), numbers.device).to(numbers.dtype)
    return (numbers.unflatten(1, (-1, int(size))) @ matrix).flatten(1)


def _int8(parts: Parts, parameters: Mapping[str, Parameter]) -> Rows:
    """§2.7: W = q s, then rotated back; the scale is the row's, so it may come last, with the only rounding."""
    weight, scale = parts["weight"], _scale(parts["weight_scale"])
    return lambda at: _unrotated(weight[at].float(), parameters.get("rotated")) * scale(at)


def _codes(packed: Tensor) -> Tensor:
    """Two numbers 0 to 15 a byte, the even column in the low half."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1).to(torch.int8)


def _int4(parts: Parts, parameters: Mapping[str, Parameter]) -> Rows:
    """§2.7 convrot_w4a4: signed 4-bit numbers, a scale for each row, rotated."""
    weight, scale = parts["weight"], _scale(parts["weight_scale"])

    def rows(at: slice) -> Tensor:
        codes = _codes(weight[at])
        return _unrotated((codes - (codes >= 8) * 16).float(), parameters.get("rotated")) * scale(at)

    return rows


def _w4a8(parts: Parts, parameters: Mapping[str, Parameter]) -> Rows:
    """§2.7 asym_w4a8_int8: codes and relative scales to int8, then a scale for each row, then rotated back."""
    weight, relative = parts["weight"], parts["weight_s_rel"].float()
    channel, group = parts["weight_s_channel"].float().reshape(-1), int(parameters["group"])
    relative = torch.where(channel[:, None] == 0, 0.0, relative)  # 0/0 of the quantiser
    codebook, correction = parts.get("weight_codebook"), parts.get("weight_correction")

    def rows(at: slice) -> Tensor:
        codes = _codes(weight[at])
        values = codes.float() - 8 if codebook is None else codebook.float()[codes.int()]
        numbers = _blocks(values, relative[at], group).round().clamp(-127, 127)
        if correction is None:  # whole numbers: rotated exactly, the row's scale comes last with the only rounding
            return _unrotated(numbers, parameters.get("rotated")) * channel[at, None]
        numbers = numbers * channel[at, None] + correction.float().t()[at].repeat_interleave(group, dim=1)
        if numbers.device.type != "mps":  # no whole numbers any more, and TF32 would round them; MPS has neither
            numbers = numbers.double()
        return _unrotated(numbers, parameters.get("rotated")).float()

    return rows


def _awq(parts: Parts, parameters: Mapping[str, Parameter]) -> Rows:
    """§2.7 awq_w4a16: (code - 8) scale + zero, both by group of columns and row."""
    weight, group = parts["weight"], int(parameters["group"])
    scale, zero = parts["weight_scale"].float().t(), parts["weight_zero"].float().t()

    def rows(at: slice) -> Tensor:
        scaled = _blocks(_codes(weight[at]).float() - 8, scale[at], group)
        return scaled + zero[at].repeat_interleave(group, dim=1)

    return rows


# Format -> its function, and the parts that it uses beside the weight.
FORMATS: dict[str, Callable[[Parts, Mapping[str, Parameter]], Rows]] = {
    "fp8": _fp8, "mxfp8": _mxfp8, "nvfp4": _nvfp4, "int8": _int8, "int4": _int4, "w4a8": _w4a8, "awq": _awq,
}
