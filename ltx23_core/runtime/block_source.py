"""Where the bytes of streamed blocks come from: registered pages of files, a ring of pinned buffers, or plain reads.

Which of them, is found out block by block: pages that can be registered are (and stay so), all others take the ring,
and where the system grants no pinned memory the ring's buffers are ordinary ones.
"""
from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from ..ops.record import pinned
from ..overlay.bytes.source import TensorRef
from ..weights.files import SourceReader
from ..weights.pages import SMALL, Pages
from ..weights.ring import Upload

Parts = Sequence[tuple[TensorRef, Tensor]]  # what is read, and the bytes (1-D, uint8, on the device) that it fills


class Arrival(Protocol):
    """Parts on their way."""

    def wait(self) -> None:
        """Make what runs next on the current stream come after them; raises what went wrong while reading."""


class BlockSource(Protocol):
    """Gives the bytes of blocks."""

    def fetch(self, parts: Parts) -> Arrival:
        """Begin to fill targets, after all that has been asked of the current stream so far.

        The targets are all there is in one place: what lies between two of them may be written too.
        The same parts may be asked for again and again: the same object then, unchanged.
        """

    def close(self) -> None:
        """Wait for what is under way, and close the files."""


def block_source(device: torch.device, pages: Pages | None = None) -> BlockSource:
    """The source for a device; ``pages`` stay the caller's to close, after the source."""
    if device.type == "cuda":
        return DeviceSource(device, pages)
    return PlainSource(device)


class _Here:
    """Nothing to wait for."""

    def wait(self) -> None:
        """See `Arrival`."""


class PlainSource:
    """Reads at once, into the memory of the CPU; to other devices by way of it."""

    def __init__(self, device: torch.device) -> None:
        """Open nothing yet."""
        self._device, self._source = device, SourceReader()

    def fetch(self, parts: Parts) -> Arrival:
        """See `BlockSource`.

        Raises:
            WeightsError, OverlayError: as `SourceReader.fill`.
        """
        for ref, target in parts:
            host = target
            if target.device.type != "cpu":
                host = torch.empty(target.shape, dtype=torch.uint8)
            self._source.fill(ref, memoryview(host.numpy()), 0)
            if host is not target:
                target.copy_(host)
        return _Here()

    def close(self) -> None:
        """See `BlockSource`."""
        self._source.close()


class _Copy:
    """A copy on a stream of its own; where it has to be read first, by a thread that then starts it."""

    def __init__(self, device: torch.device, event: torch.cuda.Event, started: Future[None] | None) -> None:
        self._device, self._event, self._started = device, event, started

    def wait(self) -> None:
        """See `Arrival`. Waits on the host only until the copy has been started."""
        if self._started is not None:
            self._started.result()
        torch.cuda.current_stream(self._device).wait_event(self._event)


class DeviceSource:
    """Copies to a CUDA device on a stream of its own, beside what computes there.

    Args:
        device: the device.
        pages: registered pages; None: the ring alone. Their copies are asked for by whoever computes: by the thread,
            a step took a tenth longer (docs/performance.md).
    """

    def __init__(self, device: torch.device, pages: Pages | None) -> None:
        """Open nothing yet."""
        self._device, self._pages = device, pages
        self._stream = torch.cuda.Stream(device)
        self._thread: ThreadPoolExecutor | None = None
        self._ring: tuple[SourceReader, Upload] | None = None
        self._last: Future[None] | None = None
        self._copies: dict[int, tuple[Parts, list[Tensor], list[Tensor]]] = {}  # by the parts' id, which they keep
        self._together: dict[tuple[tuple[int, int], ...], Tensor] = {}  # addresses and offsets -> small pieces

    def fetch(self, parts: Parts) -> Arrival:
        """See `BlockSource`."""
        asked = torch.cuda.Event()
        asked.record(torch.cuda.current_stream(self._device))
        there = torch.cuda.Event()
        for _, target in parts[:1]:  # all lie in one place, which must outlive its copies even where nobody waits
            target.record_stream(self._stream)
        copies = self._from_pages(parts)
        idle = self._last is None or self._last.done()
        if idle and copies is not None:
            self._copy(copies, asked, there)
            return _Copy(self._device, there, None)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="ltx23-stream")
        self._last = self._thread.submit(self._read, parts, asked, there)
        return _Copy(self._device, there, self._last)

    def _copy(self, copies: tuple[list[Tensor], list[Tensor]], asked: torch.cuda.Event,
              there: torch.cuda.Event) -> None:
        """Ask for the copies of registered pages."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_event(asked)
            torch._foreach_copy_(*copies, non_blocking=True)  # one call: the host is what small sizes wait for
            there.record()

    def _from_pages(self, parts: Parts) -> tuple[list[Tensor], list[Tensor]] | None:
        """Targets and registered pages, piece by piece, made once for a block in a place; None: not all is registered.

        Pages that are registered stay so until they are closed, which is after this source.
        """
        if id(parts) not in self._copies:
            if self._pages is None:
                return None
            spans = []
            for ref, _ in parts:  # of all of them: what can be registered is
                spans.append(self._pages.spans(ref))
            if None in spans:
                return None
            pieces = []
            for (_, target), found in zip(parts, spans, strict=True):
                for host, offset in found:
                    pieces.append((target[offset:offset + len(host)], host))
            pieces.sort(key=lambda piece: piece[0].storage_offset())
            targets, hosts = [], []
            for small, run in groupby(pieces, lambda piece: len(piece[1]) <= SMALL):
                for target, host in [self._one_copy(list(run))] if small else run:
                    targets.append(target)
                    hosts.append(host)
            self._copies[id(parts)] = parts, targets, hosts
        return self._copies[id(parts)][1:]

    def _one_copy(self, pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Small neighbours in a place as one piece, whose bytes are pinned once for a block in all places."""
        first, (last, _) = pieces[0][0], pieces[-1]
        start = first.storage_offset()
        size = last.storage_offset() + len(last) - start
        key = tuple((host.data_ptr(), target.storage_offset() - start) for target, host in pieces)
        if key not in self._together:
            together = pinned((size,), torch.uint8).zero_()
            for (_, at), (_, host) in zip(key, pieces, strict=True):
                together[at:at + len(host)] = host
            self._together[key] = together
        return first.as_strided((size,), (1,)), self._together[key]

    def _read(self, parts: Parts, asked: torch.cuda.Event, there: torch.cuda.Event) -> None:
        """In the thread: read, and start the copies."""
        if self._ring is None:
            source = SourceReader()
            self._ring = source, Upload(self._device, source, self._pages)
        upload = self._ring[1]
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                upload.expect(ref for ref, _ in parts)
                self._stream.wait_event(asked)
                for ref, target in parts:
                    upload.upload(ref, target, torch.uint8)
                there.record()
        except BaseException:
            self._drop_ring()  # what it had announced is not what comes next
            raise

    def _drop_ring(self) -> None:
        if self._ring is not None:
            source, _ = self._ring
            self._ring = None
            source.close()
            self._stream.synchronize()  # the buffers are freed next

    def close(self) -> None:
        """See `BlockSource`."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._drop_ring()
        self._stream.synchronize()
        self._copies.clear()
        self._together.clear()
