"""Work on tensors that stay where they are, recorded as one CUDA graph and launched in one call."""
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

_log = logging.getLogger("ltx23")


def allowed(device: torch.device) -> bool:
    """Whether work on a device may be recorded: on a GPU, without gradients, with torch's native allocator.

    ``LTX23_GRAPHS=0`` in the environment keeps it off. Nothing turns it on under another allocator:
    ``cudaMallocAsync`` ties memory to the graph that took it, and ends the process where a tensor outlives that.
    """
    if device.type != "cuda" or torch.version.cuda is None or os.environ.get("LTX23_GRAPHS", "auto") == "0":
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return False
    backend = torch.cuda.get_allocator_backend()
    if backend != "native":
        _say_off(backend)
    return backend == "native"


@lru_cache(maxsize=4)
def _say_off(backend: str) -> None:
    """Once: on an NVIDIA GPU ComfyUI takes this allocator unless told otherwise."""
    _log.info("CUDA graphs: off, torch's allocator is %s. Small sizes run faster where ComfyUI is started with "
              "--disable-cuda-malloc.", backend)


@lru_cache(maxsize=16)
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream on which a device is recorded: libraries keep a workspace for every stream they have seen."""
    return torch.cuda.Stream(device)


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Work on the stream for recording, between what came before and what comes after."""
    stream, usual = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        yield
    usual.wait_stream(stream)


class Repeated:
    """A function that is called again and again and reads and writes the same tensors each time.

    The first call runs as usual, which also prepares its kernels; the second one is recorded, if that is possible.

    Args:
        function: without arguments; what it returns is written over by the next call.
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
                # Other threads may use the device meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._result = self._function()
                finally:
                    graph.capture_end()
        except RuntimeError as error:  # nothing has run: the usual way gives the same result
            _log.info("CUDA graphs: not here (%s)", " ".join(str(error).split())[:200])
            return
        self._graph = graph
