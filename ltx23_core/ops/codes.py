"""Products of 8-bit codes: rows of activations and rows of weights, each with one scale. Lossy, never taken unasked.

A number is code times the scale of its row: e4m3 with scale = amax / 448, int8 with scale = amax / 127 (as per-row
weights of files, spec/09 §2). Products sum in float32, int8 ones in int32; scales and bias come after the sum.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from ..errors import RequestError
from .pick import kernels

FP8, INT8 = torch.float8_e4m3fn, torch.int8
LARGEST = {FP8: 448.0, INT8: 127.0}
FEWEST_ROWS = 17  # of `torch._int_mm` on CUDA
MANY_ROWS = 256  # in multiples of which any product is there
ROWS, FEW = 16, 64  # of a weight: in multiples of it; most of a layer whose codes are made at each use


class Coded(NamedTuple):
    """Activations as codes.

    Attributes:
        codes: (…, W) of a dtype in `LARGEST`, contiguous.
        scale: float32 (…, 1), of each row.
    """

    codes: Tensor
    scale: Tensor

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The values, (…, W)."""
        return (self.codes.float() * self.scale).to(dtype)


def coded(rows: Tensor, steps: Tensor | None) -> Tensor | Coded:
    """Rows of a kernel, as codes where it gave their scales too."""
    if steps is None:
        return rows
    return Coded(rows, steps)


def wanted_as(rows: Tensor, dtype: torch.dtype | None) -> Tensor | Coded:
    """Rows as they are, or as codes of a dtype."""
    if dtype is None:
        return rows
    return quantise(rows, dtype)


def quantise(x: Tensor, dtype: torch.dtype) -> Coded:
    """Rows as codes.

    Relative L2 to x on normal data, W = 4096: e4m3 2.6e-2, int8 9e-3 (CPU, `tests/unit/ops/test_codes.py`).

    Args:
        x: (…, W), finite.
        dtype: of the codes.
    """
    module = kernels("codes", x)
    if module is not None:
        return Coded(*module.quantise(x, dtype, gelu=False))
    largest = LARGEST[dtype]
    scale = x.float().abs().amax(-1, keepdim=True) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    values = x.float() / scale
    if not dtype.is_floating_point:
        values = values.round()
    return Coded(values.clamp(-largest, largest).to(dtype), scale)


def product(x: Coded, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x W^T + bias.

    Args:
        x: (…, in).
        weight: codes (out, in) of x's dtype, contiguous; in and out multiples of 16.
        scale: float32 (out,), of its rows.
        bias: (out,) or None.
        dtype: of the result.

    Returns:
        (…, out).
    """
    rows, steps = x.codes.flatten(0, -2), x.scale.reshape(-1, 1)
    if not rows.is_cuda:
        made = _defined(rows, steps, weight, scale, bias)
    elif rows.dtype == INT8:
        made = _int8(rows, steps, weight, scale, bias, dtype)
    else:
        made = _fp8(rows, steps, weight, scale, bias, dtype)
    return made.to(dtype).unflatten(0, x.codes.shape[:-1])


def _defined(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The definition; sums of e4m3 products fit float32 to rounding, those of int8 need more."""
    wide = torch.float32 if rows.dtype == FP8 else torch.float64
    return _scaled((rows.to(wide) @ weight.to(wide).t()).float(), steps, scale, bias)


def _fp8(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
         dtype: torch.dtype) -> Tensor:
    """The first way that the library has for these shapes: cuBLASLt refuses some, such as few rows that are long."""
    key = len(rows), tuple(weight.shape), bias is None, dtype
    for name in _FP8_WAYS if key not in ways else (ways[key],):
        try:
            made = _FP8_WAYS[name](rows, steps, weight, scale.contiguous(), bias, dtype)
        except RuntimeError as error:
            if "NOT_SUPPORTED" not in str(error):
                raise
            continue
        ways[key] = name
        return made
    raise RuntimeError(f"no product of fp8 codes for {key}")


def _whole(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
           dtype: torch.dtype) -> Tensor:
    return torch._scaled_mm(rows, weight.t(), steps, scale[None], bias=bias, out_dtype=dtype, use_fast_accum=True)


def _bias_after(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
                dtype: torch.dtype) -> Tensor:
    made = _whole(rows, steps, weight, scale, None, dtype)
    if bias is not None:
        made += bias
    return made


def _more_rows(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
               dtype: torch.dtype) -> Tensor:
    count, more = len(rows), -len(rows) % MANY_ROWS
    rows = pad(rows.view(torch.uint8), (0, 0, 0, more)).view(FP8)
    return _bias_after(rows, pad(steps, (0, 0, 0, more)), weight, scale, bias, dtype)[:count]


def _of_numbers(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
                dtype: torch.dtype) -> Tensor:
    numbers = (weight.float() * scale[:, None]).to(dtype)
    return linear((rows.float() * steps).to(dtype), numbers, bias)


_FP8_WAYS = {"whole": _whole, "bias after": _bias_after, "more rows": _more_rows, "numbers": _of_numbers}
ways: dict[tuple[object, ...], str] = {}
"""Which way the products of fp8 codes take that have been made, by rows, shape of the weight, no bias, and dtype."""


def _int8(rows: Tensor, steps: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None,
          dtype: torch.dtype) -> Tensor:
    count = len(rows)
    if count < FEWEST_ROWS:
        rows = pad(rows, (0, 0, 0, FEWEST_ROWS - count))
    sums = torch._int_mm(rows, weight.t())[:count]
    module = kernels("codes", sums)
    if module is not None:
        return module.scaled(sums, steps, scale, bias, dtype)
    return _scaled(sums.float(), steps, scale, bias)


def _scaled(sums: Tensor, steps: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    made = sums * steps * scale
    if bias is None:
        return made
    return made + bias.float()


def codes_of(layers: Sequence[nn.Module]) -> torch.dtype | None:
    """The dtype of the codes in which layers take their input; None: numbers.

    Args:
        layers: over one input. All must multiply codes (``direct``) of one dtype; beside them there may be some of few
            rows (gate logits, which no file quantises), whose codes are made at each use.
    """
    dtype: torch.dtype | None = None
    for layer in layers:
        if is_plain(layer):
            if len(layers) == 1 or layer.out_features > FEW:
                return None
            continue
        if not getattr(layer, "direct", False):
            return None
        rows = layer.per_row(with_loras=True)
        if rows is None or rows[0].dtype not in LARGEST or rows[0].dtype != (dtype or rows[0].dtype):
            return None
        dtype = rows[0].dtype
    return dtype


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's weight is numbers, with LoRAs beside it (``added``) or not."""
    return type(layer) is nn.Linear or hasattr(layer, "added")


def layer_of_few(x: Coded, layer: nn.Linear) -> Tensor:
    """What a plain layer of few rows makes of codes, without its LoRAs; see `codes_of`."""
    count, more = layer.out_features, -layer.out_features % ROWS
    weight, bias = quantise(pad(layer.weight, (0, 0, 0, more)), x.codes.dtype), pad(layer.bias, (0, more))
    return product(x, weight.codes, weight.scale[:, 0], bias, layer.weight.dtype)[..., :count]


def check_codes(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a kind of codes that a device does not multiply, by one small product.

    Raises:
        RequestError: it cannot run here.
    """
    ones = Coded(torch.ones(32, 32, device=device).to(dtype), torch.ones(32, 1, device=device))
    try:
        made = product(ones, ones.codes, ones.scale[:, 0], None, torch.bfloat16)
        if not bool((made == 32).all()):
            raise RuntimeError("its products are wrong")
    except (RuntimeError, NotImplementedError) as error:
        name, fix, said = "fp8", "Choose int8 or default.", str(error).splitlines()[0]
        if dtype == INT8:
            name, fix = "int8", "Choose default."
        raise RequestError(f"matmul_dtype {name} does not run on {device} ({said})",
                           "arithmetic that this device has", fix) from error
