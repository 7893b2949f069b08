"""Training steps as CUDA graphs: a small model's step is hundreds of kernels, which take longer to launch than run."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

WARM_UPS = 3
Losses = Mapping[str, Tensor]


class Recorder:
    """Runs steps; from its second to fourth call on, each is one launch.

    Args:
        device: a GPU, or nothing is recorded.
        wanted: False: run every step as usual.
    """

    def __init__(self, device: torch.device, wanted: bool = True) -> None:
        self._device, self._on = device, wanted and device.type == "cuda" and os.environ.get("TINY_GRAPHS") != "0"
        self._stream = torch.cuda.Stream(device) if self._on else None
        self._pool = torch.cuda.graph_pool_handle() if self._on else None  # steps follow each other: one memory for all
        self._calls: dict[object, int] = {}
        self._made: dict[object, tuple[torch.cuda.CUDAGraph, Losses]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """All work of a run, recorded or not, goes to one stream."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def step(self, key: object, function: Callable[[], Losses]) -> Losses:
        """One step of a kind; a function reads and writes the same tensors each time.

        Returns:
            The losses, detached. What a recorded step returns is written over by the next one of its kind.
        """
        if not self._on:
            return _detached(function())
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        if calls <= (1 if self._made else WARM_UPS):
            return _detached(function())
        if key not in self._made:
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                losses = _detached(function())
            self._made[key] = graph, losses
        graph, losses = self._made[key]
        graph.replay()
        return {name: value.clone() for name, value in losses.items()}


def _detached(losses: Losses) -> Losses:
    return {name: value.detach() for name, value in losses.items()}
