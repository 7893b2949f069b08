"""Rows of a matrix as byte ranges of their own."""
from __future__ import annotations

from dataclasses import replace

from ..bytes.source import AnyRef, QuantRef, TensorRef

_ALONE = ((), (1,), (1, 1))  # shapes of a scale that belongs to all rows
_PARTS = {"weight", "weight_scale", "input_scale"}
_SWIZZLED = ("mxfp8", "nvfp4")  # the scales of 128 rows lie mixed


def can_stay(ref: AnyRef) -> bool:
    """Whether single rows of a matrix can be read: what belongs to a row must lie in its place."""
    if isinstance(ref, TensorRef):
        return True
    if ref.origin is not None or ref.format in _SWIZZLED or not set(ref.parts) <= _PARTS:
        return False
    rows = {part.shape[0] for part in ref.parts.values() if part.shape not in _ALONE}
    return rows <= {ref.shape[0]}


def rows_of(ref: AnyRef, start: int, end: int) -> AnyRef:
    """Rows [start, end) of a matrix that `can_stay`."""
    shape = (end - start, *ref.shape[1:])
    if isinstance(ref, QuantRef):
        parts = dict(ref.parts)
        for name, part in ref.parts.items():
            if part.shape not in _ALONE:
                parts[name] = rows_of(part, start, end)
        return replace(ref, shape=shape, parts=parts)
    size = ref.size_bytes // max(ref.shape[0], 1)
    return replace(ref, shape=shape, start=ref.start + start * size, end=ref.start + end * size)
