"""Layers whose matrix stays in its file: the rows that are used are read when they are asked for."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..overlay.bytes.source import AnyRef
from ..overlay.packed.rows import rows_of
from ..quant.layers import ROWS_AT_ONCE
from ..weights.pages import Pages
from ..weights.reader import RangeReader


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


class FileLinear(nn.Linear):
    """`nn.Linear` whose weight is used a piece of rows at a time (`models.text.feature_extractor.project`).

    The bias is shared with the layer that it takes the place of.

    Args:
        linear: the layer.
        ref: its weight, of which rows can be read.
        device, dtype: of the rows.
        pages: registered pages of the file, where they can be had.
    """

    def __init__(self, linear: nn.Linear, ref: AnyRef, device: torch.device, dtype: torch.dtype,
                 pages: Pages | None) -> None:
        nn.Module.__init__(self)
        self.replaced = (linear,)  # in a tuple: not a child
        self.out_features, self.in_features = ref.shape
        self._ref, self._device, self._dtype, self._pages = ref, device, dtype, pages
        self.register_buffer("weight", torch.empty(ref.shape, dtype=dtype, device="meta"))
        self.register_parameter("bias", linear.bias)

    def read_rows(self, pieces: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Rows [start, end) of the weight, piece by piece, as numbers on the device; each is read ahead."""
        refs = [rows_of(self._ref, start, end) for start, end in pieces]
        with closing(RangeReader(self._device, self._pages)) as reader:
            reader.expect(refs)
            for ref in refs:
                yield reader.read(ref, self._dtype)
