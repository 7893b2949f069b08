"""Counting what is read."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..overlay.bytes.source import AnyRef
from .reader import RangeReader


@dataclass
class ReadCounter:
    """What one load has read: tensors and bytes (LoRAs included), seconds from start to all on the device."""

    tensors: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def count(self, ref: AnyRef) -> None:
        """Add one tensor."""
        self.tensors += 1
        self.bytes += ref.size_bytes

    def reading(self, reader: RangeReader) -> Callable[..., Tensor]:
        """`RangeReader.read` that is counted here."""
        def read(ref: AnyRef, dtype: torch.dtype | None, out: Tensor | None = None) -> Tensor:
            self.count(ref)
            return reader.read(ref, dtype, out)

        return read


def byte_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
