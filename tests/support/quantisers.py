"""Quantises weights as Lightricks and ComfyUI do (spec/09 §2), for tests. Nothing here uses the library.

A quantiser gives the parts of a weight by suffix, and the numbers that they stand for: computed from the codes before
they are packed and swizzled.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Quantiser = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def fp8(dtype: torch.dtype = torch.float8_e4m3fn, rows: bool = False) -> Quantiser:
    """§2.2: one scale a tensor, or one a row."""
    most = torch.finfo(dtype).max

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        peak = weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()
        scale = (peak / most).clamp(min=1e-12)
        q = (weight / scale).to(dtype)
        return {"weight": q, "weight_scale": scale}, q.float() * scale

    return quantise


def fp8_squares(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """One scale for each square of 128 rows and columns."""
    rows, columns = weight.shape
    squares = padded(weight, 128, 128).unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
    scale = (squares.abs().amax((1, 3)) / 448).clamp(min=1e-12)
    each = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
    q = (weight / each).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": scale}, q.float() * each


def cast(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """§2.1, 7: no scale."""
    q = weight.to(torch.float8_e4m3fn)
    return {"weight": q}, q.float()


def padded(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros up to multiples."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows))


def swizzle(scale: Tensor) -> Tensor:
    """§2.6.1, byte by byte as the formula says."""
    rows, columns = scale.shape
    high, wide = -(-rows // 128) * 128, -(-columns // 4) * 4
    flat = torch.zeros(high * wide, dtype=scale.dtype)
    for r in range(rows):
        for c in range(columns):
            tile = (r // 128) * (wide // 4) + c // 4
            flat[tile * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4] = scale[r, c]
    return flat.reshape(high, wide)


def mxfp8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """§2.5."""
    full = padded(weight, 32, 32)
    blocks = full.unflatten(1, (-1, 32))
    exponent = torch.ceil(torch.log2((blocks.abs().amax(2) / 448).clamp(min=2.0 ** -126))).clamp(-126, 127)
    q = (blocks / 2.0 ** exponent[..., None]).to(torch.float8_e4m3fn)
    codes = (exponent + 127).to(torch.uint8)
    numbers = (q.float() * torch.ldexp(torch.ones_like(exponent), exponent.int())[..., None]).flatten(1)
    return ({"weight": q.flatten(1), "weight_scale": swizzle(codes)},
            numbers[:weight.shape[0], :weight.shape[1]])


def nvfp4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """§2.6: the even column in the high half."""
    full = padded(weight, 16, 16)
    whole = (full.abs().max() / (448 * 6)).clamp(min=1e-12)
    blocks = full.unflatten(1, (-1, 16))
    scale = (blocks.abs().amax(2) / 6 / whole).to(torch.float8_e4m3fn)
    wanted = blocks / (scale.float() * whole).clamp(min=1e-12)[..., None]
    magnitude = (wanted.abs()[..., None] - E2M1).abs().argmin(-1)
    negative = wanted < 0
    codes = (magnitude + 8 * negative).flatten(1).to(torch.uint8)
    values = E2M1[magnitude] * torch.where(negative, -1.0, 1.0)
    numbers = (values * scale.float()[..., None]).flatten(1) * whole
    packed = (codes[:, 0::2] << 4) | codes[:, 1::2]
    swizzled = swizzle(scale.view(torch.uint8)).view(torch.float8_e4m3fn)
    return ({"weight": packed, "weight_scale": swizzled, "weight_scale_2": whole},
            numbers[:weight.shape[0], :weight.shape[1]])


def rotation(size: int) -> Tensor:
    """§2.7, in float64."""
    base = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(matrix, base)
    return matrix / size ** 0.5


def _rotate(weight: Tensor, size: int | None) -> Tensor:
    return (weight.double().unflatten(1, (-1, size)) @ rotation(size)).flatten(1) if size else weight.double()


def _whole(weight: Tensor, most: int, rotated: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, a scale a row, numbers."""
    turned = _rotate(weight, rotated).float()
    scale = (turned.abs().amax(1, keepdim=True) / most).clamp(min=1e-12)
    q = (turned / scale).round().clamp(-most, most)
    return q, scale, _rotate(q, rotated).float() * scale


def int8(rotated: int | None = None) -> Quantiser:
    """§2.7 int8_tensorwise, a scale a row."""
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        q, scale, numbers = _whole(weight, 127, rotated)
        return {"weight": q.to(torch.int8), "weight_scale": scale}, numbers

    return quantise


def int4(rotated: int) -> Quantiser:
    """§2.7 convrot_w4a4: signed halves, the even column in the low one."""
    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        q, scale, numbers = _whole(weight, 7, rotated)
        codes = q.to(torch.int16) & 15
        packed = (codes[:, 0::2] | (codes[:, 1::2] << 4)).to(torch.uint8).view(torch.int8)
        return {"weight": packed, "weight_scale": scale.flatten()}, numbers

    return quantise
