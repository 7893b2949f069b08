"""LoRA fused into a weight while it is loaded (spec/01 §5): no copy of the base weight is kept."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import WeightsError
from ..overlay.companions import lora_fits
from ..overlay.source import TensorRef

Pair = tuple[TensorRef, TensorRef]


@dataclass(frozen=True)
class LoraUse:
    """One LoRA at one strength.

    Args:
        pairs: weight name -> A (r, in) and B (out, r); weights that the module does not have are ignored, as
            the official code does.
        strength: factor of B @ A; 0 changes nothing and reads nothing.
    """

    pairs: Mapping[str, Pair]
    strength: float


def lora_pairs(tensors: Mapping[str, TensorRef]) -> dict[str, Pair]:
    """Weight name -> (A, B), from the names of an overlay's LoRA component."""
    suffix = ".lora_A.weight"
    return {name.removesuffix(suffix) + ".weight": (ref, tensors[name.removesuffix(suffix) + ".lora_B.weight"])
            for name, ref in tensors.items() if name.endswith(suffix)}


def check_pair(name: str, weight: TensorRef, pair: Pair) -> None:
    """Refuse a pair that does not fit its weight, before anything is read."""
    a, b = pair
    if not lora_fits(weight.shape, a.shape, b.shape):
        raise WeightsError(f"the LoRA of {a.path} changes {name} by {list(b.shape)} times {list(a.shape)}",
                           f"a product of shape {list(weight.shape)}", "Use a LoRA made for LTX-2.3.")


def fuse(weight: Tensor, factors: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Add LoRAs to a weight in place, in the weight's dtype and with the official order of roundings.

    The first product is (B * strength) @ A, rounded after each step; further ones are added to it; the weight
    comes last. In bfloat16 this is the official default, in float32 the exact sum.

    Args:
        weight: (out, in).
        factors: (A (r, in), B (out, r), strength) of each LoRA, in order, in the weight's dtype and device.
    """
    delta: Tensor | None = None
    for a, b, strength in factors:
        delta = (b * strength) @ a if delta is None else torch.addmm(delta, b, a, alpha=strength)
    return weight if delta is None else weight.add_(delta)
