"""Modules whose weight stays quantised on the device, in the form of its file, and becomes numbers when it is used.

A `QuantLinear` takes the place of an `nn.Linear` before loading; names stay: a manifest entry is still a parameter, and
the parts of a weight (scales) stand beside it. LoRAs change the numbers each time: (dequantise, fuse) per use gives
bit for bit what fusing into a dequantised copy would give, for every kind of update. Adding B (A x) to the output
instead would round otherwise, could not do DoRA or LoKr, and costs as much from some two thousand tokens on.

Where several passes use a layer in turn, its numbers are made once and held meanwhile (`QuantWeight.hold`).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..lora.apply import apply
from ..lora.layers import ChangedLayer
from ..overlay.bytes.source import AnyRef, QuantRef
from ..overlay.packed.sizes import as_quantised, kept_parts, stays_quantised
from ..weights.dequant import dequantise
from ..weights.reader import TORCH_DTYPES

ROWS_AT_ONCE = 1 << 14  # of an embedding as a head: 126 MB of Gemma 12B in bfloat16


class QuantWeight(ChangedLayer):
    """A quantised matrix: buffer ``weight`` and its other parts, as the file has them.

    Args:
        ref: the weight in its file; nothing of it is read.
        dtype: of the numbers when they are used.
    """

    def __init__(self, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.format, self.dtype = ref.shape, ref.format, dtype
        self.parameters = dict(ref.parameters)
        self.part_names, self._held, self._holds = tuple(kept_parts(ref)), None, False
        self.product: OneProduct | None = None  # whose numbers lie behind its own
        for name, part in kept_parts(ref).items():
            self.register_buffer(name, torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device="meta"))

    def is_for(self, ref: QuantRef, dtype: torch.dtype) -> bool:
        """Whether this was made for such a weight."""
        if (self.format, self.shape, self.dtype) != (ref.format, ref.shape, dtype):
            return False
        parts = kept_parts(ref)
        if self.parameters != dict(ref.parameters) or set(self.part_names) != parts.keys():
            return False
        for name, part in parts.items():
            mine = getattr(self, name)
            if tuple(mine.shape) != part.shape or mine.dtype != TORCH_DTYPES[part.dtype]:
                return False
        return True

    def numbers(self) -> Tensor:
        """The weight, (rows, columns), with its LoRAs."""
        if self._held is not None:
            return self._held
        parts = {name: getattr(self, name) for name in self.part_names}
        out = None
        if self._holds and self.product is not None:
            out = self.product.place(self)
        weight = dequantise(self.format, parts, self.parameters, self.shape, self.dtype, out)
        changes = [change for change in self.changes() if change.strength]
        if changes:
            weight = apply(weight, changes)
        if self._holds:
            self._held = weight
        return weight

    def hold(self, on: bool) -> None:
        """From now on keep the numbers that are made until this is called with False."""
        self._held, self._holds = None, on
        if self.product is not None:
            self.product.forget()

    def rows(self, at: Tensor | slice) -> Tensor:
        """Numbers of some rows, (n, columns), without LoRAs: the formats of `packed.sizes.BY_ROW`."""
        parts = {"weight": self.weight[at]}
        scale = getattr(self, "weight_scale", None)
        if scale is not None and scale.numel() != 1:
            scale = scale.reshape(-1)[at]
        if scale is not None:
            parts["weight_scale"] = scale
        shape = len(parts["weight"]), self.shape[1]
        return dequantise(self.format, parts, self.parameters, shape, self.dtype)


class OneProduct:
    """Where the numbers of layers that take the same input lie behind each other, so that nothing is copied.

    Args:
        layers: in the order of `ops.matmul`; all of one dtype and width.
    """

    def __init__(self, layers: Sequence[QuantLinear]) -> None:
        self._rows: dict[int, slice] = {}
        self._count = 0
        for layer in layers:
            start, self._count = self._count, self._count + layer.out_features
            self._rows[id(layer)] = slice(start, self._count)
        self._all: Tensor | None = None

    def place(self, layer: QuantLinear) -> Tensor:
        """The part of a layer, (rows, columns)."""
        if self._all is None:
            shape = self._count, layer.in_features
            self._all = torch.empty(shape, dtype=layer.dtype, device=layer.weight.device)
        return self._all[self._rows[id(layer)]]

    def forget(self) -> None:
        """Let the memory go with the numbers in it."""
        self._all = None


def join_products(block: nn.Module) -> None:
    """Let those layers of a block share memory that `ops.matmul` takes in one product."""
    for part in block.modules():
        for names in getattr(part, "together", ()):
            layers = list(map(part.get_submodule, names))
            if not _alike(layers):
                continue
            product = OneProduct(layers)
            for layer in layers:
                layer.product = product


def _alike(layers: Sequence[nn.Module]) -> bool:
    """Whether all of them are quantised, and of one dtype as numbers."""
    dtypes = set()
    for layer in layers:
        if not isinstance(layer, QuantLinear):
            return False
        dtypes.add(layer.dtype)
    return len(dtypes) == 1


class QuantLinear(QuantWeight):
    """`nn.Linear` with such a weight; the bias is an ordinary parameter."""

    def __init__(self, linear: nn.Linear | QuantLinear, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__(ref, dtype)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return functional.linear(x, self.numbers(), self.bias)


class QuantEmbedding(QuantWeight):
    """`nn.Embedding` (or Gemma's, which scales) with such a weight: only the rows that are asked for become numbers."""

    def __init__(self, embedding: nn.Embedding | QuantEmbedding, ref: QuantRef, dtype: torch.dtype) -> None:
        super().__init__(ref, dtype)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        scale = getattr(embedding, "embed_scale", None)  # transformers 4.50: a number; later: a buffer
        if scale is not None:
            scale = torch.empty((), device="meta")
        self.register_buffer("embed_scale", scale, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """As `nn.Embedding`."""
        rows = self.rows(ids.flatten()).unflatten(0, ids.shape)
        if self.embed_scale is None:
            return rows
        return rows * self.embed_scale.to(self.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """x (..., columns) times every row, (..., rows): what a tied head gives.

        A piece of the table at a time: Gemma's as numbers would be 2 GB.
        """
        made = []
        for start in range(0, self.num_embeddings, ROWS_AT_ONCE):
            rows = self.rows(slice(start, start + ROWS_AT_ONCE))
            made.append(functional.linear(x, rows))
        return torch.cat(made, dim=-1)


def replace_layers(module: nn.Module, refs: Mapping[str, AnyRef], dtype: torch.dtype) -> set[str]:
    """Put quantised layers where the overlay has quantised weights; those that are in place stay.

    Args:
        module: on the meta device.
        refs: its tensors in the overlay.
        dtype: of the numbers.

    Returns:
        the names of the tensors that stay quantised.
    """
    kept = set()
    for name, ref in refs.items():
        if not stays_quantised(name, ref):
            continue
        path, _, last = name.removesuffix(".weight").rpartition(".")
        parent, quantised = module.get_submodule(path), as_quantised(ref)
        layer = getattr(parent, last)
        if not isinstance(layer, QuantWeight) or not layer.is_for(quantised, dtype):
            setattr(parent, last, _quantised(layer, quantised, dtype).eval())
        kept.add(name)
    return kept


def _quantised(layer: nn.Module, ref: QuantRef, dtype: torch.dtype) -> QuantWeight:
    """What takes a layer's place."""
    if isinstance(layer, nn.Linear | QuantLinear):
        return QuantLinear(layer, ref, dtype)
    return QuantEmbedding(layer, ref, dtype)


def logical_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's tensors, of quantised ones as numbers and without their scales."""
    shapes = {}
    for name, value in module.state_dict().items():
        shapes[name] = tuple(value.shape)
    for path, layer in module.named_modules():
        if isinstance(layer, QuantWeight):
            for part in layer.part_names:
                del shapes[f"{path}.{part}"]
            shapes[f"{path}.weight"] = layer.shape
    return shapes
