"""The page cache as pinned memory: a weight file's own pages, registered with the driver, from which the device reads.

A shared read-only mapping is registered (``cudaHostRegister``, flag ``cudaHostRegisterReadOnly``): nothing is copied in
RAM, and copies from it run at the bus's full speed. Measured on an H100 (Linux 6.18, driver 580, CUDA 13.0): it takes
33 to 50 GB/s where the cache has the file in large runs of pages, 13 GB/s in single pages (tmpfs), 20 GB/s there where
threads have the pages mapped first (`populate`). Copies 52 to 55 GB/s, beside 23 to 30 through a pinned ring.

Two rules keep it safe. The processor never touches the mapping: a file that shrinks would end the process, the device
merely gets the old bytes. The driver is bound to it too: copies of 64 KB or less return before they are through (CUDA
programming guide), their bytes put among the commands by the processor; so what is `SMALL` is read into memory of our
own. And registered pages cannot be evicted: their sum is bounded by the RAM there is.
Whatever is refused here is read in the ordinary way by the caller.
"""
from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import sys
import threading
import weakref
from pathlib import Path

import numpy
import torch
from torch import Tensor

from ..errors import LTX23Error
from ..memory.ram import available_ram, total_ram
from ..overlay.bytes.source import TensorRef
from .cached import file_system, is_cached, is_memory, is_remote
from .populate import populate

_log = logging.getLogger("ltx23")

READ_ONLY = 0x08  # cudaHostRegisterReadOnly
READ_ONLY_SUPPORTED = 113  # cudaDevAttrHostRegisterReadOnlySupported
# Bytes: what is copied in so small a piece never comes from the mapping. 64 KB by the guide; of a file cut to nothing
# pieces from 151,868 bytes on were copied (H200, driver 580), and of smaller ones nobody knows: `bench small-copies`.
SMALL = 148 << 10
PIECE = 256 << 20  # bytes that are registered at once: about 7 ms, so that an interrupt does not wait
MOST_OF_RAM = 0.75  # of all RAM: what all registered pages of a process may take together
LEFT_FREE = 0.10  # of all RAM: what stays available beside them

_lock = threading.Lock()
_registered = 0  # bytes, of all files of this process that do not lie in memory anyway


def supported(device: torch.device) -> bool:
    """Whether the device can read registered pages of a file: NVIDIA on Linux, and its driver says so."""
    if sys.platform != "linux" or device.type != "cuda" or torch.version.cuda is None:
        return False
    try:
        driver, value, number = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
        index = torch.cuda.current_device() if device.index is None else device.index
        asked = (driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(number), index),
                 driver.cuDeviceGetAttribute(ctypes.byref(value), READ_ONLY_SUPPORTED, number))
    except (OSError, AttributeError):
        return False
    return not any(asked) and value.value == 1


def registered_bytes() -> int:
    """Bytes that this process holds registered."""
    return _registered


class _Mapping:
    """One file: its mapping, and which pieces of it are registered."""

    def __init__(self, ref: TensorRef) -> None:
        self.file = open(ref.path, "rb", buffering=0)  # noqa: SIM115 (closed with the mapping)
        try:
            info = os.fstat(self.file.fileno())
            if ref.source is not None:
                ref.source.check_stat(info)
            self.size = info.st_size
            self._map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)  # shared, read only
        except BaseException:
            self.file.close()
            raise
        # An address and a tensor over it, without a buffer that would keep the mapping from being closed.
        self.address = numpy.frombuffer(self._map, numpy.uint8).ctypes.data
        self.bytes = torch.frombuffer((ctypes.c_ubyte * self.size).from_address(self.address), dtype=torch.uint8)
        self.pieces: dict[int, int] = {}  # number -> bytes
        self._own: dict[tuple[int, int], Tensor] = {}  # small ranges that were read
        self.in_memory = is_memory(file_system(ref.path))
        self.refused = False

    def own(self, start: int, end: int) -> Tensor | None:
        """Bytes [start, end) in ordinary memory, read once; None: the file does not have them any more."""
        if (start, end) not in self._own:
            read = bytearray(end - start)
            try:
                count = os.preadv(self.file.fileno(), [read], start)
            except OSError:
                return None
            if count < len(read):
                return None
            self._own[start, end] = torch.frombuffer(read, dtype=torch.uint8)
        return self._own[start, end]

    def close(self) -> None:
        """Unmap; the pieces must have been given back."""
        self.bytes = torch.empty(0, dtype=torch.uint8)
        self._own.clear()
        self._map.close()
        self.file.close()


class Pages:
    """Registered pages of any number of files, for one device.

    Args:
        device: a CUDA device.
        limit: most bytes, of all files together; None: by the RAM there is.
        remote: whether files of network drives are taken too, whose registered pages the server may pull away.
    """

    def __init__(self, device: torch.device, limit: int | None = None, *, remote: bool = False) -> None:
        self._device, self._limit, self._remote = device, limit, remote
        self._files: dict[Path, _Mapping | None] = {}  # None: cannot be mapped
        self._lock = threading.RLock()
        self.available = supported(device)
        # Also when nobody closes it, and at exit: unmapped pages would stay registered.
        self._owner = os.getpid(), device
        weakref.finalize(self, _give_back, self._files, *self._owner)

    @property
    def held_bytes(self) -> int:
        """Bytes registered by this object."""
        return sum(sum(file.pieces.values()) for file in self._files.values() if file is not None)

    def spans(self, ref: TensorRef) -> list[tuple[Tensor, int]] | None:
        """The bytes of a tensor for copies to the device, each piece in one copy or in copies larger than `SMALL`.

        Returns:
            Pieces (uint8, on the CPU), each with its offset in the tensor: none crosses the edge of two registrations.
            Those larger than `SMALL` are registered pages, not to be read by the processor; the others ordinary memory.
            They hold until `close`. None: this tensor has to be read in another way.

        Raises:
            OverlayError: the file changed after the overlay was made.
        """
        if not self.available or ref.start == ref.end:
            return None
        first, last = ref.start // PIECE, (ref.end - 1) // PIECE
        with self._lock:
            file = self._file(ref)
            if file is None or ref.end > file.size or not all(
                    self._register(ref.path, file, number) for number in range(first, last + 1)):
                return None
            pieces, at = [], ref.start
            while at < ref.end:
                end = min(ref.end, (at // PIECE + 1) * PIECE)
                piece = file.bytes[at:end] if end - at > SMALL else file.own(at, end)
                if piece is None:
                    return None
                pieces.append((piece, at - ref.start))
                at = end
        return pieces

    def close(self) -> None:
        """Give everything back; it may be used again."""
        with self._lock:
            _give_back(self._files, *self._owner)

    def _file(self, ref: TensorRef) -> _Mapping | None:
        if ref.path not in self._files:
            try:
                far = not self._remote and is_remote(file_system(ref.path))
                self._files[ref.path] = None if far else _Mapping(ref)
            except LTX23Error:
                raise
            except (OSError, ValueError) as error:
                _log.info("%s is read in the ordinary way: it cannot be mapped (%s)", ref.path, error)
                self._files[ref.path] = None
        return self._files[ref.path]

    def _register(self, path: Path, file: _Mapping, number: int) -> bool:
        """Whether a piece is registered, now or before."""
        global _registered
        if number in file.pieces:
            return True
        start = number * PIECE
        size = min(PIECE, file.size - start)
        if file.refused or not self._room(size, file.in_memory):
            return False
        if not is_cached(file.file.fileno(), start, start + size):
            return False  # reading threads bring it into the cache faster than the driver would
        with _lock:
            _registered += size * (not file.in_memory)
        populate(file.address + start, size)
        code = int(torch.cuda.cudart().cudaHostRegister(file.address + start, size, READ_ONLY))
        if code:
            with _lock:
                _registered -= size * (not file.in_memory)
            file.refused = True
            _forget_error(self._device)
            _log.info("%s is read in the ordinary way: its pages cannot be registered (CUDA error %d)", path, code)
            return False
        file.pieces[number] = size
        return True

    def _room(self, size: int, in_memory: bool) -> bool:
        """Whether that many more bytes may become unevictable; those of a file in memory are so already."""
        if self._limit is not None:
            return self.held_bytes + size <= self._limit
        total, available = total_ram(), available_ram()
        if total is None or available is None:
            return False
        if in_memory:
            return True
        # The system still counts registered pages of a file as available.
        left = available - _registered - size
        return _registered + size <= MOST_OF_RAM * total and left >= LEFT_FREE * total


def _give_back(files: dict[Path, _Mapping | None], process: int, device: torch.device) -> None:
    """Unregister and unmap, after the copies under way. A fork has the mapping, but not the registration."""
    global _registered
    owned = os.getpid() == process
    if owned and any(file is not None and file.pieces for file in files.values()):
        torch.cuda.synchronize(device)
    for file in files.values():
        if file is None:
            continue
        for number, size in file.pieces.items() if owned else ():
            torch.cuda.cudart().cudaHostUnregister(file.address + number * PIECE)
            with _lock:
                _registered -= size * (not file.in_memory)
        file.pieces.clear()
        file.close()
    files.clear()


def _forget_error(device: torch.device) -> None:
    """The runtime reports a refused registration once more at the next launch of a kernel: let that be this one."""
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)
