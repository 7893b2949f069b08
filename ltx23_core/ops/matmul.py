"""Several linear layers over one input as one product; without a copy where their weights lie behind each other.

Names of parameters stay official: who loads a module puts the parameters of such layers into one tensor (`Together`)
and gives each layer its view, so that LoRAs in place, moving and saving see ordinary layers. Whether a product can be
one is read off the memory at each call: it is always true, whoever put the weights there.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .codes import Coded, codes_of, is_plain, layer_of_few, product, quantise


def linears(x: Tensor | Coded, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What each layer makes of x: (…, out) each, parts of one product.

    Always one, wherever the weights lie: several products round otherwise, and a model must not depend on who loaded
    it. Only layers that compute in a way of their own are called one by one.

    Args:
        x: (…, in); codes only where `ops.codes.codes_of` the layers said so.
        layers: each an `nn.Linear`, one with LoRAs beside its weight (``added``), or one whose weight becomes numbers
            when it is used (``numbers``).
    """
    dtype = codes_of(layers)
    if dtype is not None:
        if not isinstance(x, Coded):
            x = quantise(x, dtype)
        return _of_codes(x, layers)
    # A compiler sees no addresses, and would copy weights at each call.
    if not all(map(_is_linear, layers)) or torch.compiler.is_compiling():
        return [layer(x) for layer in layers]
    weight, bias = packed(layers) or _gathered(layers)
    parts = linear(x, weight, bias).split([layer.out_features for layer in layers], dim=-1)
    made: list[Tensor] = []
    for layer, part in zip(layers, parts, strict=True):
        if hasattr(layer, "added"):
            made.append(layer.added(x, part))
        else:
            made.append(part)
    return made


def _of_codes(x: Coded, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What each layer makes of codes: one product of all that hold codes, and LoRAs beside it."""
    weights, scales, biases = [], [], []
    coded = [layer for layer in layers if not is_plain(layer)]
    for layer in coded:
        codes, scale = layer.per_row(with_loras=True)
        weights.append(codes)
        scales.append(scale)
        biases.append(layer.bias)
    weight, scale, bias = weights[0], scales[0], biases[0]
    if len(coded) > 1:
        weight, scale, bias = _all_rows(weights), _all_rows(scales), _all_rows(biases)
    made = product(x, weight, scale, bias, coded[0].dtype)
    parts = iter(made.split([layer.out_features for layer in coded], dim=-1))
    numbers = cache(lambda: x.numbers(coded[0].dtype))
    found: list[Tensor] = []
    for layer in layers:
        if is_plain(layer):
            found.append(_of_few(x, layer, numbers))
        elif layer.per_row() is None:
            found.append(layer.with_loras(numbers(), next(parts)))
        else:
            found.append(next(parts))
    return found


def _of_few(x: Coded, layer: nn.Module, numbers: Callable[[], Tensor]) -> Tensor:
    """What a layer of few rows makes of codes."""
    made = layer_of_few(x, layer)
    if getattr(layer, "acts", False):
        return layer.added(numbers(), made)
    return made


def _all_rows(parts: Sequence[Tensor]) -> Tensor:
    """Tensors joined on the first axis: a view where they lie behind each other."""
    joined = _joined(parts)
    if joined is None:
        return torch.cat(list(parts))
    return joined


def _is_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear or hasattr(layer, "added") or hasattr(layer, "numbers")


def _gathered(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Weight and bias of all layers as one: copies, unless numbers were made behind each other."""
    weights: list[Tensor] = []
    for layer in layers:
        product = getattr(layer, "product", None)
        if hasattr(layer, "numbers"):
            weights.append(layer.numbers())
        elif product is not None:
            weights.append(product.beside(layer))
        else:
            weights.append(layer.weight)
    bias = torch.cat([layer.bias for layer in layers])
    if not _learns(weights):
        joined = _joined(weights)
        if joined is not None:
            return joined, bias
    return torch.cat(weights), bias


def _learns(weights: Sequence[Tensor]) -> bool:
    """Whether a gradient is wanted; views of data have none."""
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)


def packed(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor] | None:
    """Weight (sum of outs, in) and bias (sum of outs,) of all layers as one, views; None if they lie apart."""
    weights, biases = [], []
    for layer in layers:
        if hasattr(layer, "numbers"):
            return None
        weights.append(layer.weight)
        biases.append(layer.bias)
    if _learns(weights):
        return None
    weight, bias = _joined(weights), _joined(biases)
    if weight is None or bias is None:
        return None
    return weight, bias


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """One view over tensors that follow each other in one storage, joined on the first axis."""
    first = parts[0]
    if first is None or first.is_meta or not first.is_contiguous():
        return None
    address, rows = first.data_ptr(), 0
    for part in parts:
        if part is None or part.dtype != first.dtype:
            return None
        if part.data_ptr() != address or not part.is_contiguous():
            return None
        address += part.numel() * part.element_size()
        rows += part.shape[0]
    size = rows * first[0].numel()
    if first.untyped_storage().nbytes() < (first.storage_offset() + size) * first.element_size():
        return None  # neighbours by chance, in storages of their own
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


class Together:
    """Where the parameters of a module go while it is loaded, so that layers which take the same input lie together.

    Args:
        module: any of its parts may have ``together``: groups of names of its layers, in order.
        apart: names of tensors that are no ordinary weights; their groups stay as they are,
        codes: but for those of these names: codes of one dtype with a ``weight_scale`` for each row.
    """

    def __init__(self, module: nn.Module, apart: Collection[str] = (), codes: Collection[str] = ()) -> None:
        self._module, self._apart, self._codes = module, apart, codes
        self._seen: set[str] = set()  # parts of the module whose groups are known
        # name -> (buffer, first row, rows of the buffer)
        self._slots: dict[str, tuple[tuple[str, str], int, int]] = {}
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def _slot(self, name: str) -> tuple[tuple[str, str], int, int] | None:
        """Where a tensor goes; the parts around it are asked at its turn, so that the first copy need not wait."""
        path = name.rpartition(".")[0]
        while path not in self._seen:
            self._seen.add(path)
            self._ask(path)
            path = path.rpartition(".")[0]
        return self._slots.get(name)

    def _ask(self, path: str) -> None:
        """Add the groups of a part."""
        for group in getattr(self._module.get_submodule(path), "together", ()):
            names = [".".join(filter(None, (path, name))) for name in group]
            if not any(f"{name}.weight" in self._apart for name in names):
                self._add(names, ("weight", "bias"))
                continue
            coded = [name for name in names if f"{name}.weight" in self._codes]
            if coded:
                self._add(coded, ("weight", "weight_scale", "bias"))

    def _add(self, names: Sequence[str], kinds: Sequence[str]) -> None:
        rows, firsts = 0, {}
        for name in names:
            firsts[name] = rows
            rows += self._module.get_submodule(name).out_features
        for kind in kinds:
            for name, first in firsts.items():
                self._slots[f"{name}.{kind}"] = (names[0], kind), first, rows

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype,
             take: Callable[[str, tuple[int, ...], torch.dtype], Tensor]) -> Tensor:
        """Memory for a tensor that is about to be read: its part of its group's, which ``take`` gives, or its own."""
        slot = self._slot(name)
        if slot is None:
            return take(name, shape, dtype)
        key, row, rows = slot
        if key not in self._buffers:
            self._buffers[key] = take(name, (rows, *shape[1:]), dtype)
        whole = self._buffers[key]
        if whole.dtype != dtype:  # as stored, and stored in several dtypes
            return torch.empty(shape, dtype=dtype, device=whole.device)
        return whole[row:row + shape[0]]

    def placed(self, name: str, tensor: Tensor) -> Tensor:
        """A loaded tensor where it belongs: itself, or its values in its group's memory."""
        if self._slot(name) is None:
            return tensor
        return self.room(name, tuple(tensor.shape), tensor.dtype,
                         lambda _, shape, dtype: tensor.new_empty(shape, dtype=dtype)).copy_(tensor)


def pack(module: nn.Module) -> None:
    """Move the parameters of a module that is on a device together as `Together` does; values, names, shapes stay."""
    places = Together(module)
    for name, parameter in module.named_parameters():
        if not parameter.is_meta:
            parameter.data = places.placed(name, parameter.detach())
