"""Upload to a CUDA device through pinned buffers that are filled ahead while the ones before are copied."""
from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..overlay.source import TensorRef
from .ahead import ReadAhead
from .files import SourceReader

SLOT_BYTES = 8 << 20
SLOTS = 16  # read ahead
SINGLE_SLOTS = 4  # for tensors that nobody announced


class Upload:
    """Copies tensors from files to a device, on a stream of its own. Casts run on the device."""

    def __init__(self, device: torch.device, source: SourceReader) -> None:
        """Allocate the buffers.

        Args:
            device: a CUDA device.
            source: reads the files.
        """
        self.device, self._source = device, source
        self._stream = torch.cuda.Stream(device)
        self._ahead = ReadAhead(source, _pinned(SLOTS), self._copied)
        self._single: ReadAhead | None = None
        self._staged: Tensor | None = None  # device side of one buffer, only where something is cast

    def close(self) -> None:
        """Wait for all copies: the buffers are freed next. Reads must have ended."""
        self._stream.synchronize()

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
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)  # the target's memory may have had a user on the current stream
        for host, offset in self._reader(ref).take():
            start = offset // stored.itemsize
            with torch.cuda.stream(self._stream):
                self._copy(host, target[start:start + host.numel() // stored.itemsize], stored)
        current.wait_stream(self._stream)

    def _reader(self, ref: TensorRef) -> ReadAhead:
        """Who reads a tensor, which is the next one there."""
        if self._ahead.is_next(ref):
            return self._ahead
        if self._single is None:
            self._single = ReadAhead(self._source, _pinned(SINGLE_SLOTS), self._copied)
        self._single.expect([ref])
        return self._single

    def _copied(self) -> Callable[[], object]:
        """What to wait for until the copies so far are through."""
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event.synchronize

    def _copy(self, host: Tensor, target: Tensor, stored: torch.dtype) -> None:
        if target.dtype == stored:
            target.copy_(host.view(stored), non_blocking=True)
            return
        if self._staged is None:
            self._staged = torch.empty(SLOT_BYTES, dtype=torch.uint8, device=self.device)
        staged = self._staged[:host.numel()]  # copies run one after the other, so one is enough
        staged.copy_(host, non_blocking=True)
        target.copy_(staged.view(stored))


def _pinned(count: int) -> tuple[Tensor, ...]:
    """Buffers in pinned memory; in ordinary memory where the system grants no more (slower then, not wrong)."""
    try:
        memory = torch.empty(count * SLOT_BYTES, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        memory = torch.empty(count * SLOT_BYTES, dtype=torch.uint8)
    return memory.split(SLOT_BYTES)
