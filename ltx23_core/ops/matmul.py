"""Several linear layers over one input as one product, where their weights lie behind each other in memory.

Names of parameters stay official: `pack` moves the weights of some layers into one tensor and leaves views of it as
their parameters, so that loading, LoRAs in place, moving and saving see ordinary layers. Whether a product can be one
is read off the memory at each call: it is always true, whoever put the weights there.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def linears(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What each layer makes of x: (…, out) each; parts of one product where `packed` finds the weights together.

    Args:
        x: (…, in).
        layers: each an `nn.Linear`, or what stands in its place (quantised, with LoRAs beside its weight).
    """
    together = packed(layers)
    if together is None:
        return [layer(x) for layer in layers]
    return list(linear(x, *together).split([layer.out_features for layer in layers], dim=-1))


def packed(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor] | None:
    """Weight (sum of outs, in) and bias (sum of outs,) of all layers as one, views; None if they lie apart."""
    if torch.compiler.is_compiling() or any(type(layer) is not nn.Linear for layer in layers):
        return None  # a compiler sees no addresses; other kinds of layers compute in their own way
    weight = _joined([layer.weight for layer in layers])
    bias = _joined([layer.bias for layer in layers])
    return None if weight is None or bias is None else (weight, bias)


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """One view over tensors that follow each other in one storage, joined on the first axis."""
    first = parts[0]
    if first is None or first.is_meta or not first.is_contiguous():
        return None
    address, rows = first.data_ptr(), 0
    for part in parts:
        if part is None or part.data_ptr() != address or part.dtype != first.dtype or not part.is_contiguous():
            return None
        address += part.numel() * part.element_size()
        rows += part.shape[0]
    size = rows * first[0].numel()
    if first.untyped_storage().nbytes() < (first.storage_offset() + size) * first.element_size():
        return None  # neighbours by chance, in storages of their own
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def pack(module: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Move the weights and biases of each group of layers into one tensor; values, names and shapes stay.

    Layers that are no plain `nn.Linear` with a weight on a device leave their group as it is.

    Args:
        module: that has the layers.
        groups: names of layers that take the same input, in the order in which their parameters shall lie.
    """
    for group in groups:
        layers = [module.get_submodule(name) for name in group]
        if any(type(layer) is not nn.Linear or layer.weight.is_meta for layer in layers) or packed(layers):
            continue
        for kind in ("weight", "bias"):
            parts = [getattr(layer, kind) for layer in layers]
            together = torch.cat([part.detach() for part in parts])
            for part, view in zip(parts, together.split([len(part) for part in parts]), strict=True):
                part.data = view
