"""Upload to a CUDA device: from the files' own registered pages, or through pinned buffers that threads fill ahead."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..overlay.bytes.source import DTYPE_BITS, TensorRef
from .ahead import ReadAhead
from .files import SourceReader
from .pages import Pages

# Measured on an H100 machine: smaller buffers are slower, from the disk and from the page cache.
SLOT_BYTES = 16 << 20
SLOTS = 16  # read ahead
SINGLE_SLOTS = 4  # for tensors that nobody announced
LOOK_AHEAD = 1 << 30  # bytes of announced tensors of which is decided how they are read


class Upload:
    """Copies tensors from files to a device, on the stream that is current. Casts run on the device."""

    def __init__(self, device: torch.device, source: SourceReader, pages: Pages | None = None) -> None:
        """Allocate nothing yet.

        Args:
            device: a CUDA device.
            source: reads the files.
            pages: registered pages, which come before the ring where they can be had; the caller's to close.
        """
        self.device, self._source, self._pages = device, source, pages
        self._ahead = ReadAhead(source, SLOTS, SLOT_BYTES, _pinned, self._copied)
        self._single: ReadAhead | None = None
        self._staged: Tensor | None = None  # device side of one buffer, only where something is cast
        self._announced: deque[TensorRef] = deque()
        self._decided: deque[TensorRef] = deque()  # announced, and read ahead or registered
        self._decided_bytes = 0

    def close(self) -> None:
        """Wait for all copies: the buffers are freed next. Reads must have ended."""
        torch.cuda.current_stream(self.device).synchronize()

    def expect(self, refs: Iterable[TensorRef]) -> None:
        """Announce tensors in the order in which they will be uploaded; others may come in between."""
        self._announced += refs
        self._look_ahead()

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
        casts = target.dtype != stored
        for host, offset in self._pieces(ref, stored.itemsize if casts else 1):
            if not casts:  # as bytes: a file may have a tensor at any place
                target.view(torch.uint8)[offset:offset + len(host)].copy_(host, non_blocking=True)
                continue
            for at, part in zip(range(offset, offset + len(host), SLOT_BYTES), host.split(SLOT_BYTES), strict=True):
                numbers = self._on_device(part).view(stored)
                start = at // stored.itemsize
                target[start:start + len(numbers)].copy_(numbers)
        if self._decided and self._decided[0] is ref:
            self._decided_bytes -= self._decided.popleft().size_bytes
            self._look_ahead()

    def _pieces(self, ref: TensorRef, element: int) -> Iterable[tuple[Tensor, int]]:
        """A tensor's bytes in memory that the device reads, each piece with its offset."""
        if not self._ahead.is_next(ref) and (spans := self._spans(ref, element)) is not None:
            return spans
        return self._reader(ref).take()

    def _spans(self, ref: TensorRef, element: int) -> list[tuple[Tensor, int]] | None:
        """Registered pages of a tensor, in pieces of whole elements."""
        return None if self._pages is None or ref.start % element else self._pages.spans(ref)

    def _look_ahead(self) -> None:
        """Decide of the next tensors how they are read, in lots: registering them, or reading ahead, begins here."""
        if self._decided_bytes > LOOK_AHEAD // 2:
            return
        lot = []
        while self._announced and self._decided_bytes < LOOK_AHEAD:
            ref = self._announced.popleft()
            self._decided.append(ref)
            self._decided_bytes += ref.size_bytes
            if self._spans(ref, DTYPE_BITS[ref.dtype] // 8 or 1) is None:
                lot.append(ref)
        self._ahead.expect(lot)

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
