"""Upload to a CUDA device through pinned buffers: threads fill some of them while others are being copied."""
from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..overlay.bytes.source import TensorRef
from .ahead import ReadAhead
from .files import SourceReader

# Measured on an H100 machine: smaller buffers are slower, from the disk and from the page cache.
SLOT_BYTES = 16 << 20
SLOTS = 16  # read ahead
SINGLE_SLOTS = 4  # for tensors that nobody announced


class Upload:
    """Copies tensors from files to a device, on the stream that is current. Casts run on the device."""

    def __init__(self, device: torch.device, source: SourceReader) -> None:
        """Allocate nothing yet.

        Args:
            device: a CUDA device.
            source: reads the files.
        """
        self.device, self._source = device, source
        self._ahead = ReadAhead(source, SLOTS, SLOT_BYTES, _pinned, self._copied)
        self._single: ReadAhead | None = None
        self._staged: Tensor | None = None  # device side of one buffer, only where something is cast

    def close(self) -> None:
        """Wait for all copies: the buffers are freed next. Reads must have ended."""
        torch.cuda.current_stream(self.device).synchronize()

    def expect(self, refs: Iterable[TensorRef]) -> None:
        """Announce tensors in the order in which they will be uploaded; others may come in between."""
        self._ahead.expect(refs)

    def upload(self, ref: TensorRef, target: Tensor, stored: torch.dtype) -> None:
        """Fill a device tensor from a file, cast to its dtype.

        Args:
            ref: the bytes.
            target: 1-D on the device, any dtype.
            stored: dtype in the file.

        Raises:
            WeightsError: the file is too short or unreadable.
            OverlayError: the file changed after the overlay was made.
        """
        for host, offset in self._reader(ref).take():
            numbers, start = host.view(stored), offset // stored.itemsize
            part = target[start:start + numbers.numel()]
            if target.dtype == stored:
                part.copy_(numbers, non_blocking=True)
            else:
                part.copy_(self._on_device(host).view(stored))

    def _reader(self, ref: TensorRef) -> ReadAhead:
        """Who reads a tensor, which is the next one there."""
        if self._ahead.is_next(ref):
            return self._ahead
        if self._single is None:
            self._single = ReadAhead(self._source, SINGLE_SLOTS, SLOT_BYTES, _pinned, self._copied)
        self._single.expect([ref])
        return self._single

    def _copied(self) -> Callable[[], object]:
        """What to wait for until the copies so far are through."""
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize

    def _on_device(self, host: Tensor) -> Tensor:
        """Bytes on the device, until the next ones: everything runs in one order, so one buffer is enough."""
        if self._staged is None:
            self._staged = torch.empty(SLOT_BYTES, dtype=torch.uint8, device=self.device)
        return self._staged[:host.numel()].copy_(host, non_blocking=True)


def _pinned() -> Tensor:
    """A buffer in pinned memory; in ordinary memory where the system grants no more (slower then, not wrong)."""
    try:
        return torch.empty(SLOT_BYTES, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(SLOT_BYTES, dtype=torch.uint8)
