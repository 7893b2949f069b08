"""Work on tensors that stay where they are, recorded as one CUDA graph and launched in one call; memory beside it."""
from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache

import torch

_log = logging.getLogger("ltx23")


NATIVE, ASYNC = "native", "cudaMallocAsync"


def allowed(device: torch.device) -> bool:
    """Whether work on a device may be recorded: on a GPU, without gradients, with an allocator that is known.

    ``LTX23_GRAPHS=0`` in the environment keeps it off; 1 also allows it under ``cudaMallocAsync``.
    """
    asked = os.environ.get("LTX23_GRAPHS", "auto")
    if device.type != "cuda" or torch.version.cuda is None or asked == "0":
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return False
    backend = torch.cuda.get_allocator_backend()
    right = backend == NATIVE or (backend == ASYNC and asked == "1")
    if not right:
        _say_off(backend)
    return right


def tied() -> bool:
    """Whether memory taken while recording belongs to the graph: so with ComfyUI's usual allocator, cudaMallocAsync.

    Then what is taken inside must be let go inside (results are copied to memory from outside), and a library's
    workspace for the stream must have been taken before. A tensor that outlives its graph ends the process, so an
    exception while recording must never let go of one: `never_free`.
    """
    return torch.cuda.get_allocator_backend() == ASYNC


def set_aside(device: torch.device, sizes: Sequence[int]) -> None:
    """Let torch's own allocator have pieces of memory of these sizes, free, for what comes next on this stream.

    Where it has them already this takes nothing. Inside a recording they are the recording's.

    Raises:
        torch.OutOfMemoryError: there is no room for them.
    """
    if device.type != "cuda" or torch.compiler.is_compiling() or torch.cuda.get_allocator_backend() != NATIVE:
        return
    held = []
    for size in sizes:
        held.append(torch.empty(size, dtype=torch.uint8, device=device))


def never_free(error: BaseException) -> None:
    """Keep an exception, and so all that its frames hold, until the process is gone; not even the exit frees it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))


def recover(device: torch.device) -> None:
    """Make torch usable again after a recording that could not be ended, as far as it lets itself.

    It stays in the state of a capture then: cudaMallocAsync puts off every free, and its generator draws nothing. The
    first is ended by name, the second by an empty recording that succeeds.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    if tied():
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(index, (0, 0))
    with suppress(Exception), aside(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is empty
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        graph.capture_end()


def trim(device: torch.device) -> None:
    """Give the memory of graphs that are gone back to the device; torch does that for its own memory only."""
    if not tied():
        return
    torch.cuda.synchronize(device)
    library, index = "libcuda.so.1", device.index
    if sys.platform == "win32":
        library = "nvcuda.dll"
    if index is None:
        index = torch.cuda.current_device()
    try:
        driver, handle = ctypes.CDLL(library), ctypes.c_int()
        if driver.cuDeviceGet(ctypes.byref(handle), index) == 0:
            driver.cuDeviceGraphMemTrim(handle)
    except (OSError, AttributeError) as error:
        _log.info("CUDA graphs: their memory stays until the process ends (%s)", error)


@lru_cache(maxsize=4)
def _say_off(backend: str) -> None:
    """Once."""
    _log.info("CUDA graphs: off, torch's allocator is %s", backend)


@lru_cache(maxsize=16)
def _stream(device: torch.device, number: int = 0) -> torch.cuda.Stream:
    """The streams on which a device is recorded: libraries keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Work on the stream for recording, between what came before and what comes after."""
    stream, usual = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        yield
    usual.wait_stream(stream)


class Beside:
    """A second stream behind the current one, for work that does not wait for what the first one does.

    Between `fork` and `join` both run. An allocator gives memory back to the stream that it was taken for, whoever
    still reads it: what the second stream reads of the first one's must stay until they have met after it (`keep`).
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._side = device, _stream(device, 1)
        self._forked = False
        self._kept: list[object] = []
        self._kept_longer: list[object] = []

    def fork(self) -> None:
        """The second stream goes on from here."""
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        self._forked = True

    def join(self, last: bool = True) -> None:
        """The first one waits for the second; ``last``: and nothing that was kept will be read again."""
        torch.cuda.current_stream(self._device).wait_stream(self._side)
        self._kept.clear()
        if last:
            self._kept_longer.clear()

    def settle(self) -> None:
        """`join` once more before a recording ends, if it has forked.

        It cannot end while the second stream has work that the first one does not wait for: of a failure half way, or
        memory that was given back behind the last `join` (`tied`: that is work on the stream it was taken for).
        """
        if self._forked:
            self.join()
        self._forked = False

    def keep(self, *values: object, longer: bool = False) -> None:
        """Do not let these go before the next `join`, or before the last one."""
        if longer:
            self._kept_longer += values
        else:
            self._kept += values

    def on(self, side: bool) -> AbstractContextManager[object]:
        """Work on the second stream, or where it is."""
        if not side:
            return nullcontext()
        return torch.cuda.stream(self._side)


class Repeated:
    """A function that is called again and again and reads and writes the same tensors each time.

    The first call runs as usual, which also prepares its kernels; the second one is recorded, if that is possible.

    Args:
        function: without arguments; what it returns is written over by the next call. Calling it twice with the same
            tensors must do no harm: some allocators need that.
        device: where it runs.
    """

    def __init__(self, function: Callable[[], torch.Tensor], device: torch.device) -> None:
        self._function, self._device, self._records = function, device, allowed(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        """Run it."""
        self._calls += 1
        if self._records and self._calls == 2:
            self._record()
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._result

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with aside(self._device):
                room = self._room()
                # Other threads may use the device meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    result = self._function()
                    if room is not None:
                        result = room.copy_(result)
                finally:
                    graph.capture_end()
        except RuntimeError as error:  # nothing has run: the usual way gives the same result
            if tied():
                never_free(error)
            recover(self._device)
            _log.info("CUDA graphs: not here (%s)", " ".join(str(error).split())[:200])
            return
        self._graph, self._result = graph, result

    def _room(self) -> torch.Tensor | None:
        """Where the result goes if the graph's own memory may not leave it, after a call that prepares the stream."""
        if not tied():
            return None
        return self._function().clone()


def pinned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor in pinned memory; in ordinary memory where the system grants no more of it.

    A host such as ComfyUI may pin most of RAM itself. Copies from and to ordinary memory wait, and are not wrong.
    """
    try:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    except RuntimeError:
        return torch.empty(tuple(shape), dtype=dtype)
