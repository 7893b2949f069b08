"""An embedding whose table stays in its file: the rows of a prompt are read when they are asked for."""
from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..overlay.bytes.source import AnyRef, QuantRef, TensorRef
from ..quant.layers import ROWS_AT_ONCE
from ..weights.reader import RangeReader


def can_stay(ref: AnyRef) -> bool:
    """Whether single rows of a table can be read: what belongs to a row must lie in its place."""
    return isinstance(ref, TensorRef) or set(ref.parts) <= {"weight", "weight_scale", "input_scale"} and (
        ref.format not in ("mxfp8", "nvfp4"))


def rows_of(ref: AnyRef, start: int, end: int) -> AnyRef:
    """Rows [start, end) of a table that `can_stay`."""
    shape = (end - start, *ref.shape[1:])
    if isinstance(ref, QuantRef):
        parts = dict(ref.parts)
        for name, part in ref.parts.items():
            if part.shape not in ((), (1,), (1, 1)):
                parts[name] = rows_of(part, start, end)
        return replace(ref, shape=shape, parts=parts)
    size = ref.size_bytes // max(ref.shape[0], 1)
    return replace(ref, shape=shape, start=ref.start + start * size, end=ref.start + end * size)


class FileEmbedding(nn.Module):
    """`nn.Embedding` (or Gemma's, which scales) whose table stays in its file.

    Args:
        embedding: that it takes the place of.
        ref: the table.
        device, dtype: of the rows.
    """

    def __init__(self, embedding: nn.Module, ref: AnyRef, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.replaced = (embedding,)  # in a tuple: not a child
        self.num_embeddings, self.embedding_dim = ref.shape
        self.dtype = dtype
        self._ref, self._device = ref, device
        self.register_buffer("weight", torch.empty(ref.shape, dtype=dtype, device="meta"))
        scale = getattr(embedding, "embed_scale", None)  # transformers 4.50: a number; later: a buffer
        if scale is not None:
            scale = torch.empty((), device="meta")
        self.register_buffer("embed_scale", scale, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """As `nn.Embedding`."""
        distinct, at = torch.unique(ids.cpu(), return_inverse=True)
        with closing(RangeReader(torch.device("cpu"))) as reader:
            table = []
            for row in distinct.tolist():
                table.append(reader.read(rows_of(self._ref, row, row + 1), self.dtype))
        rows = torch.cat(table)[at].to(self._device)
        if self.embed_scale is None:
            return rows
        return rows * self.embed_scale.to(self.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """x (..., columns) times every row, (..., rows): what a tied head gives; reads the table a piece at a time."""
        made = []
        with closing(RangeReader(self._device)) as reader:
            pieces = []
            for start in range(0, self.num_embeddings, ROWS_AT_ONCE):
                end = min(start + ROWS_AT_ONCE, self.num_embeddings)
                pieces.append(rows_of(self._ref, start, end))
            reader.expect(pieces)
            for piece in pieces:
                made.append(functional.linear(x, reader.read(piece, self.dtype)))
        return torch.cat(made, dim=-1)
