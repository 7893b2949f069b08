"""Upload to a CUDA device through two pinned buffers: one is filled from the file while the other one is copied."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SLOT_BYTES = 64 << 20
_ALIGN = 256
_LEAST = 1 << 20  # do not begin a large tensor in a rest of a slot smaller than this


class PinnedRing:
    """Two pinned buffers that many small tensors share, and a copy stream. Casts run on the device."""

    def __init__(self, device: torch.device, slot_bytes: int = SLOT_BYTES) -> None:
        """Allocate the buffers.

        Args:
            device: a CUDA device.
            slot_bytes: size of one buffer; a multiple of 256.
        """
        self.device, self.slot_bytes = device, slot_bytes
        self._stream = torch.cuda.Stream(device)
        self._host = [_pinned(slot_bytes) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._staged: list[Tensor] | None = None  # device side of the buffers, only where something is cast
        self._slot = self._offset = 0

    def close(self) -> None:
        """Wait for all copies: the buffers are freed next."""
        self._stream.synchronize()

    def upload(self, fill: Callable[[memoryview, int], None], target: Tensor, stored: torch.dtype) -> None:
        """Fill a device tensor from a file, cast to its dtype.

        Args:
            fill: fills a buffer with the bytes of the tensor from an offset on.
            target: 1-D on the device, any dtype.
            stored: dtype in the file.
        """
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)  # the target's memory may have had a user on the current stream
        done = 0
        while done < target.numel():
            host = self._take((target.numel() - done) * stored.itemsize)
            fill(memoryview(host.numpy()), done * stored.itemsize)
            count = host.numel() // stored.itemsize
            self._copy(host, target[done:done + count], stored)
            self._offset += -(-host.numel() // _ALIGN) * _ALIGN
            done += count
        current.wait_stream(self._stream)

    def _take(self, needed: int) -> Tensor:
        """A free piece of the current buffer, or of the next one once its copies are through."""
        if self.slot_bytes - self._offset < min(needed, _LEAST):
            self._copied[self._slot].record(self._stream)
            self._slot, self._offset = 1 - self._slot, 0
            self._copied[self._slot].synchronize()
        return self._host[self._slot][self._offset:min(self.slot_bytes, self._offset + needed)]

    def _copy(self, host: Tensor, target: Tensor, stored: torch.dtype) -> None:
        with torch.cuda.stream(self._stream):
            if target.dtype == stored:
                target.copy_(host.view(stored), non_blocking=True)
                return
            if self._staged is None:
                self._staged = [torch.empty(self.slot_bytes, dtype=torch.uint8, device=self.device) for _ in range(2)]
            staged = self._staged[self._slot][self._offset:self._offset + host.numel()]
            staged.copy_(host, non_blocking=True)
            target.copy_(staged.view(stored))


def _pinned(size: int) -> Tensor:
    """Pinned memory; ordinary memory where the system grants no more of it (copies are then slower, not wrong)."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
