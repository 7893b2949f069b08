"""Reads ahead: threads fill a ring of buffers with what will be asked for next, so that the disk never waits.

The tensors to come are cut into pieces of a buffer's size, whatever their own sizes are: neighbours in the file share a
piece, and large tensors take several. A buffer is filled again as soon as its last byte has been taken.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from ..overlay.bytes.source import DTYPE_BITS, TensorRef
from .files import SourceReader

Span = tuple[int, int, int]  # number of the piece, offset in it, bytes


@dataclass
class Piece:
    """Bytes [start, end) of a file, which are read in one go.

    Args:
        ref: the first tensor in it, for its file.
        uses: spans of tensors in it that were not taken yet.
    """

    ref: TensorRef
    start: int
    end: int
    uses: int = 0


def cut(refs: Iterable[TensorRef], size: int) -> tuple[list[Piece], list[tuple[TensorRef, list[Span]]]]:
    """Pieces of at most ``size`` bytes (a multiple of 16), and where in them each tensor is.

    No element is cut, and each begins at a multiple of its size: so every span is a view of its tensor's dtype.
    """
    pieces: list[Piece] = []
    places: list[tuple[TensorRef, list[Span]]] = []
    for ref in refs:
        spans: list[Span] = []
        element = DTYPE_BITS[ref.dtype] // 8 or 1
        joins = bool(pieces) and pieces[-1].ref.path == ref.path and pieces[-1].end == ref.start and (
            (ref.start - pieces[-1].start) % element == 0)
        at = ref.start
        while at < ref.end:
            if not joins or pieces[-1].end - pieces[-1].start == size:
                pieces.append(Piece(ref, at, at))
            last, joins = pieces[-1], True
            count = min(size - (last.end - last.start), ref.end - at)
            spans.append((len(pieces) - 1, at - last.start, count))
            last.end += count
            last.uses += 1
            at += count
        places.append((ref, spans))
    return pieces, places


class ReadAhead:
    """Gives the bytes of tensors in the order in which they were announced.

    Args:
        source: reads the files.
        count, size: number of buffers, and bytes of each, a multiple of 16.
        make: a buffer (uint8 on the CPU), called by the thread that fills it for the first time: making pinned memory
            takes as long as filling it five times, so reading begins beside it.
        release: called with nothing when a buffer's bytes were handed on; gives what the reading thread has to wait
            for before it fills the buffer again (a copy that is still under way).
    """

    def __init__(self, source: SourceReader, count: int, size: int, make: Callable[[], Tensor],
                 release: Callable[[], Callable[[], object]] = lambda: lambda: None) -> None:
        """Read nothing yet."""
        self._source, self._make, self._release = source, make, release
        self._size = size
        self._buffers: list[Tensor | None] = [None] * count
        self._pieces: dict[int, Piece] = {}  # by number: those not used up
        self._known = 0  # pieces so far
        self._queue: deque[tuple[TensorRef, list[Span]]] = deque()
        self._reads: dict[int, Future[None]] = {}  # by number of the piece: those begun and not used up
        self._begun = 0
        self._waits: list[Callable[[], object]] = [lambda: None] * count

    def expect(self, refs: Iterable[TensorRef]) -> None:
        """Announce tensors, after all those announced before; reading begins at once."""
        first = self._known
        pieces, places = cut(refs, self._size)
        self._pieces |= dict(enumerate(pieces, first))
        self._known += len(pieces)
        self._queue += ((ref, [(first + number, offset, count) for number, offset, count in spans])
                        for ref, spans in places)
        self._begin()

    def is_next(self, ref: TensorRef) -> bool:
        """Whether this very tensor is the next one."""
        return bool(self._queue) and self._queue[0][0] is ref

    def take(self) -> Iterator[tuple[Tensor, int]]:
        """The bytes of the next tensor: views of buffers, each with its offset in the tensor.

        A view is valid until the next one is asked for, or until what ``release`` gave then has been waited for.

        Raises:
            WeightsError: the file is too short or unreadable.
            OverlayError: the file changed after the overlay was made.
        """
        done = 0
        for number, offset, count in self._queue.popleft()[1]:
            self._reads[number].result()
            yield self._buffers[number % len(self._buffers)][offset:offset + count], done
            done += count
            self._pieces[number].uses -= 1
            if not self._pieces[number].uses:
                del self._reads[number], self._pieces[number]
                self._waits[number % len(self._buffers)] = self._release()
                self._begin()

    def _begin(self) -> None:
        """Start reading into every free buffer."""
        while self._begun < self._known and self._begun - self._finished() < len(self._buffers):
            slot = self._begun % len(self._buffers)
            self._reads[self._begun] = self._source.pool.submit(
                self._fill, self._pieces[self._begun], slot, self._waits[slot])
            self._begun += 1

    def _finished(self) -> int:
        """How many pieces are used up: they are so in order."""
        return self._begun - len(self._reads)

    def _fill(self, piece: Piece, slot: int, wait: Callable[[], object]) -> None:
        wait()
        buffer = self._buffers[slot]
        if buffer is None:  # one piece at a time is in a slot, so nobody else makes it
            buffer = self._buffers[slot] = self._make()
        self._source.read(piece.ref, memoryview(buffer.numpy())[:piece.end - piece.start], piece.start)
