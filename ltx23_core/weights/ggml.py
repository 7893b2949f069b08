"""ggml blocks to numbers, in torch, on any device (spec/09 §2.8).

Each function takes the blocks as (n, bytes) uint8 and gives integers and factors; the product is made in float32
with the roundings of ggml (and of the gguf package), then cast once. What can be done on bytes is done on bytes.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..overlay.bytes.ggml import BLOCKS, PLUS_ONE

_AT_ONCE = 1 << 25  # numbers: bounds the memory that is needed beside the result to about 250 MB
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# q (n, groups, values of a group), factor (n, groups, 1), what is then added (n, groups, 1) or None
_Parts = tuple[Tensor, Tensor, "Tensor | None"]


def dequantise(raw: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """Numbers of a quantised matrix.

    Args:
        raw: (..., bytes of a row), uint8: whole blocks.
        kind: a name of `DECODERS`.
        dtype: of the result; the arithmetic is in float32.

    Returns:
        (..., values of a row).
    """
    values, size = BLOCKS[kind]
    result = torch.empty(*raw.shape[:-1], raw.shape[-1] // size * values, dtype=dtype, device=raw.device)
    blocks, numbers = raw.reshape(-1, size), result.view(-1, values)
    for part, out in zip(blocks.split(_AT_ONCE // values), numbers.split(_AT_ONCE // values), strict=True):
        q, factor, more = DECODERS[kind](part)
        out = out.view(q.shape)
        if more is None:
            torch.mul(q, factor, out=out)
        else:
            torch.add(torch.mul(q, factor), more, out=out)
    return result


def numbers(kind: str, stored: Tensor, dtype: torch.dtype) -> Tensor:
    """What any tensor of a GGUF file stands for: blocks, or 1 + w.

    Args:
        kind: a name of `overlay.ggml.GGUF_FORMATS`.
        stored: as the file has it.
        dtype: of the result.
    """
    return (stored.float() - 1).to(dtype) if kind == PLUS_ONE else dequantise(stored, kind, dtype)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at a byte of each block as float32, (n, 1)."""
    return blocks[:, at:at + 2].contiguous().view(torch.float16).float()


def _nibbles(part: Tensor) -> Tensor:
    """(n, g, b) bytes -> (n, g, 2, b): the low halves, then the high ones."""
    return torch.stack((part & 15, part >> 4), dim=2)


def _crumbs(part: Tensor, count: int = 4, width: int = 2) -> Tensor:
    """(n, g, b) bytes -> (n, g, count, b): bits 0.., width.., … of each byte, ``width`` of them."""
    return torch.stack([(part >> width * i) & (1 << width) - 1 for i in range(count)], dim=2)


def _signed(q: Tensor, zero: int) -> Tensor:
    """Unsigned bytes below 128 as int8, less a zero point."""
    return q.view(torch.int8) - zero


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """Bit i of the 32-bit word is the fifth bit of value i; (n, 1, 32), 0 or 16."""
    bits = _crumbs(blocks[:, at:at + 4, None].reshape(-1, 4, 1), 8, 1)  # (n, 4, 8, 1): byte, bit
    return bits.reshape(-1, 1, 32) << 4


def _q8_0(b: Tensor) -> _Parts:
    return b[:, None, 2:].view(torch.int8), _half(b, 0)[..., None], None


def _q4_0(b: Tensor) -> _Parts:
    return _signed(_nibbles(b[:, None, 2:]).reshape(-1, 1, 32), 8), _half(b, 0)[..., None], None


def _q4_1(b: Tensor) -> _Parts:
    return _nibbles(b[:, None, 4:]).reshape(-1, 1, 32), _half(b, 0)[..., None], _half(b, 2)[..., None]


def _q5_0(b: Tensor) -> _Parts:
    q = _nibbles(b[:, None, 6:]).reshape(-1, 1, 32) | _fifth_bits(b, 2)
    return _signed(q, 16), _half(b, 0)[..., None], None


def _q5_1(b: Tensor) -> _Parts:
    q = _nibbles(b[:, None, 8:]).reshape(-1, 1, 32) | _fifth_bits(b, 4)
    return q, _half(b, 0)[..., None], _half(b, 2)[..., None]


def _k_scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and what is subtracted of the eight groups of Q4_K and Q5_K, each (n, 8, 1)."""
    low, middle, high = b[:, 4:16].reshape(-1, 3, 4).unbind(1)
    scale = torch.cat((low & 63, (high & 15) | (low >> 2 & 48)), -1)
    least = torch.cat((middle & 63, (high >> 4) | (middle >> 2 & 48)), -1)
    return (_half(b, 0) * scale)[..., None], (_half(b, 2) * least)[..., None]


def _q4_k(b: Tensor) -> _Parts:
    factor, least = _k_scales(b)
    return _nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32), factor, -least


def _q5_k(b: Tensor) -> _Parts:
    factor, least = _k_scales(b)
    low = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return low | _crumbs(b[:, None, 16:48], 8, 1).reshape(-1, 8, 32) << 4, factor, -least


def _q6_k(b: Tensor) -> _Parts:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 16, 16)
    high = _crumbs(b[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    return _signed(low | high << 4, 32), (_half(b, 208) * b[:, 192:208].view(torch.int8))[..., None], None


def _q3_k(b: Tensor) -> _Parts:
    low = _crumbs(b[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    high = _crumbs(b[:, None, :32], 8, 1).reshape(-1, 16, 16)  # 4 is subtracted where the bit is not set
    scale = _nibbles(b[:, None, 96:104]).reshape(-1, 16) | _crumbs(b[:, None, 104:108]).reshape(-1, 16) << 4
    return _signed(low | high << 2, 4), (_half(b, 108) * _signed(scale, 32))[..., None], None


def _q2_k(b: Tensor) -> _Parts:
    q = _crumbs(b[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    return q, (_half(b, 80) * (b[:, :16] & 15))[..., None], -(_half(b, 82) * (b[:, :16] >> 4))[..., None]


def _by_table(nibbles: Tensor) -> Tensor:
    return torch.tensor(_IQ4, dtype=torch.int8, device=nibbles.device)[nibbles.int()]


def _iq4_nl(b: Tensor) -> _Parts:
    return _by_table(_nibbles(b[:, None, 2:]).reshape(-1, 1, 32)), _half(b, 0)[..., None], None


def _iq4_xs(b: Tensor) -> _Parts:
    low = torch.stack((b[:, 4:8] & 15, b[:, 4:8] >> 4), -1).reshape(-1, 8)
    scale = low | _crumbs(b[:, 2:4, None]).reshape(-1, 8) << 4
    q = _by_table(_nibbles(b[:, 8:].reshape(-1, 8, 16)).reshape(-1, 8, 32))
    return q, (_half(b, 0) * _signed(scale, 32))[..., None], None


DECODERS: dict[str, Callable[[Tensor], _Parts]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}
