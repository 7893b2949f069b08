"""Numbers by their bits, for kernels: every device has these, and they round as torch does."""
from __future__ import annotations

import triton
import triton.language as tl

_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to a whole number, ties to even


@triton.jit
def e4m3(code):  # noqa: ANN201  Triton's tensors
    """Float32 of e4m3 codes (0 to 255), by bits: every device has these."""
    sign = (code & 128) << 24
    magnitude = code & 127
    normal = (magnitude << 20) + (120 << 23)
    small = (magnitude.to(tl.float32) * 0.001953125).to(tl.int32, bitcast=True)  # below 2^-6: eighths of it
    bits = tl.where(magnitude < 8, small, normal)
    return (tl.where(magnitude == 127, 0x7FC00000, bits) | sign).to(tl.float32, bitcast=True)


@triton.jit
def whole(x):  # noqa: ANN201  Triton's tensors
    """Rounded to a whole number, ties to even; below 2^22."""
    return (x + _MAGIC) - _MAGIC


@triton.jit
def e4m3_code(x):  # noqa: ANN201  Triton's tensors
    """Codes of e4m3, 0 to 255, of float32 numbers within ±448: by bits, ties to even; every device has these."""
    bits = x.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 128
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = whole(tl.abs(x) * 512.0).to(tl.int32)  # below 2^-6: eighths of it
    code = tl.where(size < 0x3C800000, small, normal)
    return tl.where(size > 0x7F800000, 127, code) | sign
