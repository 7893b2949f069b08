"""What two processes of this library say to each other through a pipe: any object, tensors beside it.

Inside ComfyUI the library has a name made of a path, in a worker another one: names of its classes and functions travel
relative to it. Both ends are this library, and only the process that started the other one has the pipe.
"""
from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import struct
import threading
from collections.abc import Sequence
from types import FunctionType
from typing import Any, BinaryIO

import torch
from torch import Tensor

PACKAGE = __name__.rpartition(".")[0].rpartition(".")[0]
_COUNT = struct.Struct("<Q")
_ONCE = 8 << 20  # bytes of one write: a pipe takes them in pieces anyway


def _tensor(data: bytearray, dtype: str, shape: Sequence[int]) -> Tensor:
    """A tensor over bytes that came."""
    kind = getattr(torch, dtype)
    if not len(data):
        return torch.empty(tuple(shape), dtype=kind)
    return torch.frombuffer(data, dtype=kind).reshape(tuple(shape))


class _Pickler(pickle.Pickler):
    def persistent_id(self, item: object) -> tuple[str, str] | None:
        """Classes and functions of this library by their names in it."""
        if isinstance(item, (type, FunctionType)) and item.__module__.startswith(f"{PACKAGE}."):
            return item.__module__[len(PACKAGE):], item.__qualname__
        return None

    def reducer_override(self, item: object) -> Any:  # noqa: ANN401
        """Tensors as bytes beside the message; on the processor when they arrive."""
        if not isinstance(item, Tensor):
            return NotImplemented
        flat = item.detach().cpu().contiguous()
        data = flat.reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(data), str(flat.dtype).removeprefix("torch."), tuple(flat.shape))


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: tuple[str, str]) -> object:
        """The opposite of `persistent_id`."""
        module, path = name
        found = importlib.import_module(module, PACKAGE)
        for part in path.split("."):
            found = getattr(found, part)
        return found


class Pipe:
    """One end: `send` from any thread, `receive` from one.

    Args:
        incoming, outgoing: raw binary files.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._writing = threading.Lock()

    def send(self, message: object) -> None:
        """Say something.

        Raises:
            OSError, ValueError: the other end is gone.
        """
        beside: list[pickle.PickleBuffer] = []
        text = io.BytesIO()
        _Pickler(text, protocol=5, buffer_callback=beside.append).dump(message)
        parts = [text.getbuffer(), *(part.raw() for part in beside)]
        with self._writing:
            self._outgoing.write(_COUNT.pack(len(parts)) + b"".join(_COUNT.pack(len(part)) for part in parts))
            for part in parts:
                for start in range(0, len(part), _ONCE):
                    self._outgoing.write(part[start:start + _ONCE])
            self._outgoing.flush()

    def receive(self) -> object:
        """What the other end says next.

        Raises:
            EOFError: it is gone.
        """
        [count] = _COUNT.unpack(self._bytes(_COUNT.size))
        sizes = struct.unpack(f"<{count}Q", self._bytes(_COUNT.size * count))
        text, *beside = [self._bytes(size) for size in sizes]
        return _Unpickler(io.BytesIO(text), buffers=beside).load()

    def _bytes(self, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            got = self._incoming.readinto(view[done:])
            if not got:
                raise EOFError
            done += got
        return data

    def close(self) -> None:
        """Say no more: the other end finds the end of its pipe."""
        for file in (self._outgoing, self._incoming):
            with contextlib.suppress(OSError):  # it is gone already
                file.close()
