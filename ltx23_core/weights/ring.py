"""Upload to a CUDA device: from the files' own registered pages, or through pinned buffers that threads fill ahead."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..memory.ram import total_ram
from ..ops.record import pinned
from ..overlay.bytes.source import DTYPE_BITS, TensorRef
from .ahead import ReadAhead
from .files import SourceReader
from .pages import Pages

# Measured on an H100 machine: smaller buffers are slower, from the disk and from the page cache.
SLOT_BYTES = 16 << 20
SLOTS = 16  # read ahead
SINGLE_SLOTS = 4  # for tensors that nobody announced
MOST_PINNED = 0.4  # of all RAM: what the buffers of one reader may take together
LOOK_AHEAD = 1 << 30  # bytes of announced tensors of which is decided how they are read


Spans = list[tuple[Tensor, int]]  # of `Pages.spans`


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
        self._ahead = ReadAhead(source, SLOTS, SLOT_BYTES, _slot, self._copied)
        self._single: ReadAhead | None = None
        self._staged: Tensor | None = None  # device side of one buffer, only where something is cast
        self._announced: deque[TensorRef] = deque()
        # Announced, and read ahead or registered: then with their pages.
        self._decided: deque[tuple[TensorRef, Spans | None]] = deque()
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
            start = offset // stored.itemsize
            for part in even_parts(host, SLOT_BYTES):
                numbers = self._on_device(part).view(stored)
                target[start:start + len(numbers)].copy_(numbers)
                start += len(numbers)
        if self._is_next(ref):
            self._decided.popleft()
            self._decided_bytes -= ref.size_bytes
            self._look_ahead()

    def _pieces(self, ref: TensorRef, element: int) -> Iterable[tuple[Tensor, int]]:
        """A tensor's bytes in memory that the device reads, each piece with its offset."""
        if self._ahead.is_next(ref):
            return self._ahead.take()
        spans = self._decided[0][1] if self._is_next(ref) else self._spans(ref, element)
        return self._single_reader(ref).take() if spans is None else spans

    def _is_next(self, ref: TensorRef) -> bool:
        """Whether this very tensor is the next one of those that were announced."""
        return bool(self._decided) and self._decided[0][0] is ref

    def _spans(self, ref: TensorRef, element: int) -> Spans | None:
        """Registered pages of a tensor, in pieces of whole elements."""
        return None if self._pages is None or ref.start % element else self._pages.spans(ref)

    def _look_ahead(self) -> None:
        """Decide of the next tensors how they are read, in lots: registering them, or reading ahead, begins here."""
        if self._decided_bytes > LOOK_AHEAD // 2:
            return
        lot = []
        while self._announced and self._decided_bytes < LOOK_AHEAD:
            ref = self._announced.popleft()
            spans = self._spans(ref, DTYPE_BITS[ref.dtype] // 8 or 1)
            self._decided.append((ref, spans))
            self._decided_bytes += ref.size_bytes
            if spans is None:
                lot.append(ref)
        self._ahead.expect(lot)

    def _single_reader(self, ref: TensorRef) -> ReadAhead:
        """Who reads a tensor that was not announced, which is the next one there."""
        if self._single is None:
            self._single = ReadAhead(self._source, SINGLE_SLOTS, SLOT_BYTES, _slot, self._copied)
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


def even_parts(host: Tensor, most: int) -> Sequence[Tensor]:
    """Bytes in about equal parts of at most ``most`` bytes (a multiple of 16): no rest is small (`pages.SMALL`)."""
    count = -(-len(host) // most)
    return host.split(-(-len(host) // (16 * count)) * 16)


def _slot() -> Tensor:
    """A buffer of the ring, pinned where that is no more than a part of RAM: Windows lends at most half of it."""
    most = total_ram()
    if most is not None and MOST_PINNED * most < (SLOTS + SINGLE_SLOTS) * SLOT_BYTES:
        return torch.empty(SLOT_BYTES, dtype=torch.uint8)
    return pinned((SLOT_BYTES,), torch.uint8)
