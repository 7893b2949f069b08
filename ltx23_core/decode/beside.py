"""A second stream of a device, for what is decoded beside the picture.

The thread that asks for the picture asks for this too. A thread of its own would share Python's lock with it, cuDNN
would plan each convolution once more in it (its plans belong to a thread), and a host could not interrupt it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

AHEAD = 2  # chunks that the device has to work on while the host asks for something else


def gains(device: torch.device) -> bool:
    """Whether sound beside the picture can end earlier than both in turn; not where a CPU computes both."""
    return device.type == "cuda"


class Beside:
    """A tensor that is made on a stream of its own while the usual stream goes on.

    The stream comes first on the device: it has many small kernels, which would wait for each large one of a picture.
    On a CPU it is simply made when it is asked for.

    Args:
        make: asks for the tensor; what it works with is on the device already.
        device: of it.
    """

    def __init__(self, make: Callable[[], Tensor], device: torch.device) -> None:
        """The place from which on the stream has what the usual one did; nothing is asked for yet."""
        self._make = make
        self._made: Tensor | None = None
        self._stream = self._from = None
        if device.type == "cuda":
            self._stream, self._device = _second(device), device
            self._from = torch.cuda.current_stream(device).record_event()

    def start(self) -> None:
        """Ask for it; raises what ``make`` raises."""
        if self._stream is None:
            self._made = self._make()
            return
        self._stream.wait_event(self._from)  # not for the picture that was asked for since
        with torch.cuda.stream(self._stream):
            self._made = self._make()

    def on_cpu(self) -> Tensor:
        """The tensor, on the CPU; waits for it, not for the usual stream. Any thread may ask, once it was started."""
        if self._stream is None:
            return self._made
        with torch.cuda.stream(self._stream):
            return self._made.cpu()

    def meet(self) -> None:
        """Let the usual stream wait for it: what it reads may go or change from here on."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def behind_chunks(chunks: Iterable[Tensor], start: Callable[[], None]) -> Iterator[Tensor]:
    """The chunks; ``start`` is called when the device has the first two to work on, or all that there are.

    Args:
        chunks: as the decoder asks for them, which does not wait for the device.
        start: asks for what is to be done beside them.
    """
    asked = 0
    for chunk in chunks:
        asked += 1
        if asked == AHEAD:
            start()
        yield chunk
        del chunk  # before the next one is made
    if asked < AHEAD:
        start()


@lru_cache(maxsize=16)
def _second(device: torch.device) -> torch.cuda.Stream:
    """One for a device: libraries keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device, priority=-1)
