"""Numbers to quantised weights, while they are read: pure torch, one function a form; lossy by nature.

The opposite of `weights.dequant` and `weights.ggml`. Everything is single operations in float32, or whole numbers, so
that every device gives the same bytes, and a file that was saved is bit for bit what loading makes. Rows are done in
groups: no float32 copy of a whole weight.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..ops.pick import kernels
from ..overlay.bytes.ggml import BLOCKS

GROUP = 1 << 24  # numbers done at once: 64 MB in float32
E4M3, I8 = 448.0, 127.0  # the largest codes
HALF = 65504.0  # the largest scale in float16: numbers beyond its reach (4.1 million in Q4_K) become what it reaches
STEPS = 7  # scales that are tried for a group of Q4_K: error 0.0715 of normal numbers, 0.0713 with 21, 0.0755 with one
FINE = 4096.0  # whole numbers that the largest of a group becomes, so that sums are exact in any order
_SUB, _SUPER = 32, 8  # Q4_K: numbers that share a scale, and such groups in a block

Parts = Mapping[str, Tensor]


def quantise(format: str, weight: Tensor, parts: Parts) -> None:
    """Fill the parts of a quantised weight.

    Args:
        format: a key of `MAKERS`.
        weight: the numbers, (rows, columns), floating point, contiguous.
        parts: by name, as `weights.dequant` takes them; contiguous, on the device of the weight.
    """
    MAKERS[format](weight, parts)


def largest(weight: Tensor, size: int) -> Tensor:
    """Largest absolute value of each group of so many numbers of a row, (rows, columns / size), float32."""
    least, most = weight.unflatten(-1, (-1, size)).aminmax(dim=-1)
    return torch.maximum(most, -least).float().abs()  # of 0 and -0 it may be either


def inverse(scale: Tensor) -> Tensor:
    """1 / scale; 0 where that is 0."""
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _rowwise(weight: Tensor, parts: Parts) -> None:
    """fp8 and int8: code = weight / scale, with a scale for each row, or one where the scale is a single number.

    A row of zeros has the scale 1.
    """
    codes, scale = parts["weight"], parts["weight_scale"]
    top = I8 if codes.dtype == torch.int8 else E4M3
    most = largest(weight, weight.shape[1])
    if scale.numel() == 1:
        most = most.amax()
    made = most * (1 / top)  # a product: of a division by a number every device makes its own
    scale.copy_(torch.where(made == 0, 1.0, made).view(scale.shape))
    factor = inverse(scale.view(-1, 1)).expand(len(weight), 1)
    module = kernels("quantise", weight)
    if module is not None:
        module.rowwise(weight, factor, codes)
        return
    for at in _groups(weight):
        numbers = weight[at].float() * factor[at]
        if codes.dtype == torch.int8:
            numbers = numbers.round()
        codes[at] = numbers.clamp(-top, top).to(codes.dtype)


def _groups(weight: Tensor) -> list[slice]:
    """Rows that are done at once."""
    step = max(1, GROUP // max(1, weight.shape[1]))
    return [slice(start, start + step) for start in range(0, len(weight), step)]


def _q8_0(weight: Tensor, parts: Parts) -> None:
    """Blocks of 32: a float16 scale, 32 whole numbers of 8 bits."""
    module, size = kernels("quantise", weight), BLOCKS["Q8_0"][1]
    if module is not None:
        module.put_q8_0(weight.reshape(-1, 32), parts["weight"].view(-1, size))
        return
    for at in _groups(weight):
        numbers = weight[at].reshape(-1, 32)
        scale = (largest(numbers, 32) * (1 / I8)).clamp(max=HALF).half()
        blocks = parts["weight"][at].view(-1, size)
        blocks[:, :2] = scale.view(torch.uint8)
        codes = (numbers.float() * inverse(scale.float())).round().clamp(-I8, I8)
        blocks[:, 2:] = codes.to(torch.int8).view(torch.uint8)


def _q4_k(weight: Tensor, parts: Parts) -> None:
    """Blocks of 256, in eight groups of 32: number = scale code - least, codes from 0 to 15.

    Scales and leasts of the groups are themselves codes of 6 bits, times a float16 of the block.
    """
    module, size = kernels("quantise", weight), BLOCKS["Q4_K"][1]
    if module is not None:
        module.put_q4_k(weight.reshape(-1, _SUB), parts["weight"].view(-1, size), STEPS)
        return
    for at in _groups(weight):
        numbers, blocks = weight[at].reshape(-1, _SUB), parts["weight"][at].view(-1, size)
        scale, least = fit(numbers)
        factor, offset = _put_scales(blocks, scale.view(-1, _SUPER), least.view(-1, _SUPER))
        codes = ((numbers.float() + offset.view(-1, 1)) * inverse(factor).view(-1, 1)).round().clamp(0, 15)
        pairs = codes.to(torch.uint8).view(-1, _SUPER // 2, 2, _SUB)
        blocks[:, 16:] = (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1)


def fit(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the least of each group with which codes from 0 to 15 come closest to it, by least squares.

    Several widths of a step are tried: for each the codes, and the line through them. The best one leaves the least
    square error. Sums are of whole numbers (the group's largest is `FINE`), so their order does not matter.

    Args:
        numbers: (n, 32).

    Returns:
        scale and least, (n, 1) float32, neither below 0: number = scale code - least. 0 where a number is not finite.
    """
    most = largest(numbers, _SUB)
    fine = (numbers.float() * (inverse(most) * FINE)).round()
    low, high = fine.amin(1, keepdim=True).clamp(max=0), fine.amax(1, keepdim=True).clamp(min=0)
    step, whole = inverse(high - low), fine.int()
    total = whole.sum(1, keepdim=True, dtype=torch.int32)
    best = torch.full_like(most, -1.0)
    scale, least = torch.zeros_like(most), torch.zeros_like(most)
    for width in widths():
        code = ((fine - low) * (step * width)).round().clamp(0, 15).int()
        codes = code.sum(1, keepdim=True, dtype=torch.int32)
        squares = (code * code).sum(1, keepdim=True, dtype=torch.int32)
        mixed = (code * whole).sum(1, keepdim=True, dtype=torch.int32)
        slope, start, gain = line(total, codes, squares, mixed)
        better = gain > best
        best, scale, least = (torch.where(better, new, old) for new, old in (
            (gain, best), (slope, scale), (-start, least)))
    unit = torch.where(most.isfinite(), most / FINE, 0.0)
    return scale.abs() * unit, least.abs() * unit  # no -0 among them


def widths() -> list[float]:
    """In how many steps the span of a group is divided, one after the other."""
    return [14.0 + 2.0 * number / (STEPS - 1) for number in range(STEPS)]


def line(total: Tensor, codes: Tensor, squares: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The line that comes closest to 32 numbers: slope, where it starts (0 at most), and how much it explains.

    Args:
        total: sum of the numbers; codes, squares: of the codes and their squares; mixed: of number times code. Whole.
    """
    across = (_SUB * squares - codes * codes).float()
    slope = (_SUB * mixed - codes * total).float() * inverse(across)
    start = (total.float() - slope * codes.float()) * (1 / _SUB)
    above, straight = start > 0, mixed.float() * inverse(squares.float())  # through 0
    # Of the sum of all squares; what is left is the error.
    free = slope * (_SUB * mixed - codes * total).float() * (1 / _SUB) + total.float() * total.float() * (1 / _SUB)
    gain = torch.where(above, mixed.float() * straight, free)
    return torch.where(above, straight, slope), torch.where(above, 0.0, start), gain


def _put_scales(blocks: Tensor, scale: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Write the first 16 bytes of blocks of Q4_K; gives scales and leasts as they are read again, (blocks, 8)."""
    found = []
    for place, values in ((0, scale), (2, least)):
        whole = (values.amax(1, keepdim=True) * (1 / 63)).clamp(max=HALF).half()
        code = (values * inverse(whole.float())).round().clamp(0, 63)
        blocks[:, place:place + 2] = whole.view(torch.uint8)
        found.append((whole.float() * code, code.to(torch.uint8)))
    (factor, s), (offset, m) = found
    blocks[:, 4:8] = s[:, :4] | s[:, 4:] >> 4 << 6
    blocks[:, 8:12] = m[:, :4] | m[:, 4:] >> 4 << 6
    blocks[:, 12:16] = s[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    return factor, offset


# Format -> what fills its parts.
MAKERS: dict[str, Callable[[Tensor, Parts], None]] = {
    "fp8": _rowwise, "int8": _rowwise, "Q8_0": _q8_0, "Q4_K": _q4_k,
}
