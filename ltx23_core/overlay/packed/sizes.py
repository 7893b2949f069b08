"""What a stored tensor takes on a device: the one answer for the loader, for the room and for the automatic choice.

Only forms and shapes are asked, no data and no torch, so that a header alone tells what loading it would cost.
"""
from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ..bytes.ggml import READABLE
from ..bytes.source import AnyRef, QuantRef

NUMBER = 2  # bytes of a number on the device: bfloat16
# Forms that stay packed on the device; weights in all others become numbers while they are read. `quant.layers` puts
# its layers in place of Linear by this answer.
STAY = frozenset(READABLE)


def stays_packed(name: str, ref: AnyRef) -> bool:
    """Whether a tensor keeps its packed form on the device: matrices do; vectors become numbers.

    Args:
        name: of the parameter.
        ref: as it is stored.
    """
    return isinstance(ref, QuantRef) and ref.format in STAY and name.endswith(".weight") and len(ref.shape) == 2


def bytes_on_device(name: str, ref: AnyRef, number: int = NUMBER) -> int:
    """Bytes of one tensor on a device.

    Args:
        name: of the parameter.
        ref: as it is stored.
        number: bytes of a number there.
    """
    if stays_packed(name, ref):
        return ref.parts["weight"].size_bytes
    return prod(ref.shape) * number


def device_bytes(tensors: Mapping[str, AnyRef], number: int = NUMBER) -> int:
    """Bytes of a component's tensors on a device: packed ones as they are, all else as numbers."""
    return sum(bytes_on_device(name, ref, number) for name, ref in tensors.items())
