"""Modules whose weight stays as the blocks of a GGUF file on the device and becomes numbers when it is used.

A `QuantLinear` takes the place of an `nn.Linear` before loading; names stay: a manifest entry is still a parameter.
LoRAs change the numbers each time: (dequantise, fuse) per use gives bit for bit what fusing into a dequantised copy
would give, for every kind of update. Adding B (A x) to the output instead would round otherwise, could not do DoRA or
LoKr, and costs as much from some two thousand tokens on.
"""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..lora.apply import apply
from ..lora.layers import ChangedLayer
from ..overlay.bytes.ggml import row_bytes
from ..overlay.bytes.source import AnyRef
from ..overlay.packed.sizes import stays_packed
from ..weights.ggml import dequantise

ROWS_AT_ONCE = 1 << 14  # of an embedding as a head: 126 MB of Gemma 12B in bfloat16


class QuantWeight(ChangedLayer):
    """A matrix as blocks: buffer ``weight`` (rows, bytes of a row), uint8.

    Args:
        shape: rows and columns of the numbers.
        kind: ggml type.
        dtype: of the numbers when they are used.
    """

    def __init__(self, shape: tuple[int, int], kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.kind, self.dtype = shape, kind, dtype
        self.register_buffer("weight", torch.empty(shape[0], row_bytes(kind, shape[1]), dtype=torch.uint8,
                                                   device="meta"))

    def numbers(self) -> Tensor:
        """The weight, (rows, columns), with its LoRAs."""
        weight = dequantise(self.weight, self.kind, self.dtype)
        changes = [change for change in self.changes() if change.strength]
        return apply(weight, changes) if changes else weight


class QuantLinear(QuantWeight):
    """`nn.Linear` with such a weight; the bias is an ordinary parameter."""

    def __init__(self, linear: nn.Linear | QuantLinear, kind: str, dtype: torch.dtype) -> None:
        super().__init__((linear.out_features, linear.in_features), kind, dtype)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return functional.linear(x, self.numbers(), self.bias)


class QuantEmbedding(QuantWeight):
    """`nn.Embedding` (or Gemma's, which scales) with such a weight: only the rows that are asked for become numbers."""

    def __init__(self, embedding: nn.Embedding | QuantEmbedding, kind: str, dtype: torch.dtype) -> None:
        shape = embedding.num_embeddings, embedding.embedding_dim
        super().__init__(shape, kind, dtype)
        self.num_embeddings, self.embedding_dim = shape
        scaled = getattr(embedding, "embed_scale", None) is not None  # transformers 4.50: a number; later: a buffer
        self.register_buffer("embed_scale", torch.empty((), device="meta") if scaled else None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """As `nn.Embedding`."""
        rows = dequantise(self.weight[ids], self.kind, self.dtype)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(self.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """x (..., columns) times every row, (..., rows): what a tied head gives.

        A piece of the table at a time: Gemma's as numbers would be 2 GB.
        """
        return torch.cat([functional.linear(x, dequantise(piece, self.kind, self.dtype))
                          for piece in self.weight.split(ROWS_AT_ONCE)], dim=-1)


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
        if not stays_packed(name, ref):
            continue
        path, _, last = name.removesuffix(".weight").rpartition(".")
        parent = module.get_submodule(path)
        layer = getattr(parent, last)
        if not isinstance(layer, QuantWeight) or (layer.kind, layer.dtype) != (ref.format, dtype):
            made = QuantLinear if isinstance(layer, nn.Linear | QuantLinear) else QuantEmbedding
            setattr(parent, last, made(layer, ref.format, dtype).eval())
        kept.add(name)
    return kept


def logical_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's tensors, of quantised ones as numbers."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return shapes | {f"{name}.weight": layer.shape for name, layer in module.named_modules()
                     if isinstance(layer, QuantWeight)}
