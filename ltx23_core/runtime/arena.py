"""Where resident weights lie: each block in one piece of memory, so that no hole stays where a block has left.

The device's allocator puts tensors under 10 MB of several blocks into one segment, and a segment that holds one living
tensor cannot be given back. Measured on an H100 with 17 of 48 blocks resident: 0.6 to 0.9 GB reserved and of no use.
"""
from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..memory.pieces import aligned
from ..overlay.bytes.source import AnyRef, TensorRef
from ..overlay.packed.sizes import as_quantised, kept_parts, stays_quantised
from ..weights.reader import TORCH_DTYPES


class Arenas:
    """Memory for tensors that come and go together; taken when the first one of them is placed.

    Args:
        groups: names of the tensors of each piece; other tensors get memory of their own.
        refs: the tensors that are placed; of a group that is not here whole, the piece is as large as what is here.
        device, dtype: of loading; the dtype of numbers, None: as stored.
    """

    def __init__(self, groups: Collection[Collection[str]], refs: Mapping[str, AnyRef], device: torch.device,
                 dtype: torch.dtype | None) -> None:
        self._device, self._dtype = device, dtype
        self._group: dict[str, int] = {}
        for number, names in enumerate(groups):
            for name in names:
                if name in refs:
                    self._group[name] = number
        self._sizes = [0] * len(groups)
        for name, number in self._group.items():
            self._sizes[number] += sum(map(aligned, self._bytes(name, refs[name])))
        self._pieces: dict[int, tuple[Tensor, int]] = {}  # piece, and how much of it is taken

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for a tensor, or for a part of a quantised one, or for several of a group behind each other."""
        number = self._group.get(name)
        if number is None:
            return torch.empty(shape, dtype=dtype, device=self._device)
        piece, at = self._pieces.get(number, (None, 0))
        if piece is None:
            piece = torch.empty(self._sizes[number], dtype=torch.uint8, device=self._device)
        size = torch.Size(shape).numel() * dtype.itemsize
        if at + size > len(piece):  # tensors behind each other as stored, and stored in several dtypes
            return torch.empty(shape, dtype=dtype, device=self._device)
        self._pieces[number] = piece, at + aligned(size)
        return piece[at:at + size].view(dtype).view(shape)

    def _bytes(self, name: str, ref: AnyRef) -> list[int]:
        """Of each tensor that it becomes."""
        if stays_quantised(name, ref):
            return [part.size_bytes for part in kept_parts(as_quantised(ref)).values()]
        return [torch.Size(ref.shape).numel() * loaded_dtype(ref, self._dtype).itemsize]


def loaded_dtype(ref: AnyRef, dtype: torch.dtype | None) -> torch.dtype:
    """Of a tensor that is read with a wish for its numbers (`RangeReader.read`)."""
    if not isinstance(ref, TensorRef):
        return dtype or torch.bfloat16
    stored = TORCH_DTYPES.get(ref.dtype, torch.uint8)  # one that torch does not have: reading refuses it in words
    if dtype is not None and stored.is_floating_point:
        return dtype
    return stored
