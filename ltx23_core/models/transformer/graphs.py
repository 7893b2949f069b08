"""Forwards as CUDA graphs, where the host is slower than the device (docs/architecture.md).

A forward launches some 3,000 kernels; on an H100 the host takes 0.35 s for that, the kernels of a preview of 384
tokens take 0.034 s, those of 6,144 tokens 0.31 s. Recorded once, they are launched in a few calls. Everything that
changes from step to step comes through tensors that are copied in, so that steps, sigmas and prompts record nothing.
"""
from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from ...ops.record import Beside, allowed, aside, never_free, recover, tied, trim
from .outline import outline, over

MOST_TOKENS = 8192  # of video and all samples; above it an H100's kernels take longer than their launches
BLOCKS = 4          # in a graph: between graphs a run can be interrupted
AHEAD = 2           # graphs that may wait on the device while the host goes on
KEPT = 4            # recordings: stages, and what guidance differs in
WIDTHS = 40         # most a recording needs, in widths of a token: twice `memory.estimates` for four passes
POLL = 0.0005       # seconds between two looks at the device

Work = Generator[None, None, list]

_log = logging.getLogger("ltx23")


class Cut(Protocol):
    """A model whose forward can be had in pieces.

    Attributes:
        transformer_blocks: whose hooks, if there are any, take part in a forward.
    """

    transformer_blocks: Iterable[nn.Module]

    def pieces(self, *given: object, beside: Beside | None = None) -> Work:
        """The work of a forward; it may be cut at each yield, and returns the result.

        ``beside``: a second stream of the device, joined at each yield.
        """

    def modules(self) -> Iterable[nn.Module]:
        """As of `nn.Module`."""


def room(latent: Tensor, width: int) -> int:
    """Bytes that a recording may take, for tokens (B, N, channels) in a model of a width."""
    return WIDTHS * latent.shape[0] * latent.shape[1] * width * latent.element_size()


def most_tokens(device: torch.device) -> int:
    """Up to how many video tokens, of all samples, a forward may be recorded: where launching is the limit; 0: it
    cannot be (`ops.record`)."""
    if allowed(device):
        return MOST_TOKENS
    return 0


def wanted(latent: Tensor, weight: Tensor) -> bool:
    """Whether recording makes sense."""
    most = most_tokens(weight.device)
    return bool(most) and latent.shape[0] * latent.shape[1] <= most


class Recording:
    """One forward, recorded.

    Args:
        model: its blocks, weights included, stay where they are.
        given: the arguments; tensors of the same shapes may come later.
        tensors: those of the arguments, as `outline` gives them.
        pool: of memory, shared by the recordings of a model: each runs from its beginning to its end.
    """

    def __init__(self, model: Cut, given: tuple[object, ...], tensors: dict[int, Tensor],
                 pool: tuple[int, int]) -> None:
        """Record; nothing runs on the device, so the result is that of the first `replay`."""
        self._inputs: list[Tensor] = []
        for value in tensors.values():
            self._inputs.append(value.clone(memory_format=torch.contiguous_format))
        self._graphs: list[torch.cuda.CUDAGraph] = []
        given = over(given, dict(zip(tensors, self._inputs, strict=True)))
        self._outputs: list | None = None
        self._ahead = AHEAD
        device = self._inputs[0].device
        beside = Beside(device) if os.environ.get("LTX23_BESIDE", "1") == "1" else None
        self._beside = beside
        with aside(device):
            if tied():
                self._whole(model, given, beside)
                return
            work = model.pieces(*given, beside=beside)
            while self._outputs is None:
                self._outputs = self._record(work, pool)

    def _whole(self, model: Cut, given: tuple[object, ...], beside: Beside | None) -> None:
        """All of it as one graph, whose memory nothing outlives (`ops.record.tied`)."""
        self._ahead = 1
        self._outputs = _drained(model.pieces(*given, beside=beside))
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                _copy_over(self._outputs, _drained(model.pieces(*given, beside=beside)))
            finally:
                self._settle()
                graph.capture_end()
        except BaseException as error:
            never_free(error)
            raise
        self._graphs.append(graph)
        graph.replay()  # takes its memory, which is counted behind this

    def _record(self, work: Work, pool: tuple[int, int]) -> list | None:
        """A few blocks; the result after the last ones."""
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile: a server, a reader of files.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        result = None
        try:
            for _ in range(BLOCKS):
                next(work)
        except StopIteration as end:
            result = end.value
        finally:
            self._settle()
            graph.capture_end()
        self._graphs.append(graph)
        return result

    def _settle(self) -> None:
        if self._beside is not None:
            self._beside.settle()

    def replay(self, tensors: dict[int, Tensor], behind: deque[torch.cuda.Event],
               check: Callable[[], None] | None) -> list:
        """Run with other values.

        Args:
            tensors: the values, in the order of the recorded ones.
            behind: ends of graphs that the device may not have reached yet.
            check: called before each graph, and while the host waits.
        """
        for static, value in zip(self._inputs, tensors.values(), strict=True):
            static.copy_(value, non_blocking=True)
        for graph in self._graphs:
            _keep_up(behind, self._ahead, check)
            graph.replay()
            behind.append(torch.cuda.Event())
            behind[-1].record()
        # The next forward of this model writes over its memory. What is one tensor of two passes stays one.
        copies: dict[int, Tensor | None] = {id(None): None}
        for pair in self._outputs:
            for value in pair:
                if id(value) not in copies:
                    copies[id(value)] = value.clone()
        return [(copies[id(video)], copies[id(audio)]) for video, audio in self._outputs]


def _drained(work: Work) -> list:
    """The result of all of it."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _copy_over(places: list, values: list) -> None:
    """Write velocities over others."""
    for place, value in zip(places, values, strict=True):
        for mine, new in zip(place, value, strict=True):
            if mine is not None:
                mine.copy_(new)


def _keep_up(behind: deque[torch.cuda.Event], ahead: int, check: Callable[[], None] | None) -> None:
    """Let the device come near: an interrupt would else come after all that the host has launched already."""
    if check is not None:
        check()
    while len(behind) >= ahead:
        if behind[0].query():
            behind.popleft()
            continue
        time.sleep(POLL)
        if check is not None:
            check()


class Graphs:
    """The recordings of one model, by what its arguments look like.

    Attributes:
        captures: how many recordings were made.
        bytes: device memory that they hold.
    """

    def __init__(self) -> None:
        self.captures, self.bytes = 0, 0
        self._made: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: deque[Hashable] = deque(maxlen=2 * KEPT)
        self._tables: list[dict[str, Tensor | None]] = []
        self._addresses: list[int] = []
        self._pool: tuple[int, int] | None = None
        self._behind: deque[torch.cuda.Event] = deque()
        self._works = True

    def forget(self) -> None:
        """Drop all: weights have moved, or layers were exchanged, or the memory is needed."""
        had = bool(self._made)
        self._made.clear()
        self._seen.clear()
        self._tables, self._addresses, self._pool, self.bytes = [], [], None, 0
        if had:
            torch.cuda.empty_cache()
            trim(torch.device("cuda"))

    def run(self, model: Cut, given: tuple[object, ...], kernels: Hashable, room: int,
            check: Callable[[], None] | None) -> list | None:
        """The result of a forward, or None: it is to run as usual.

        The first call of a kind runs as usual, which also prepares its kernels; the second one is recorded.

        Args:
            model: with weights.
            given: arguments of `Cut.pieces`.
            kernels: what else decides about the kernels.
            room: bytes that must be free for a recording.
            check: called several times; may raise to interrupt.
        """
        if not self._works or any(part._forward_pre_hooks for part in model.transformer_blocks):
            return None  # hooks bring weights, or make numbers of them, while a forward runs
        if self._made and self._addresses != _addresses(self._tables):
            self.forget()
        tensors: dict[int, Tensor] = {}
        key = outline(given, tensors), kernels
        with torch.cuda.device(next(iter(tensors.values())).device):
            return self._run(key, model, given, tensors, room, check)

    def _run(self, key: Hashable, model: Cut, given: tuple[object, ...], tensors: dict[int, Tensor],
             room: int, check: Callable[[], None] | None) -> list | None:
        if key in self._made:
            self._made.move_to_end(key)
        elif key in self._seen:
            if torch.cuda.mem_get_info()[0] + _cached() < room or not self._add(key, model, given, tensors):
                return None
        else:
            self._seen.append(key)
            return None
        return self._made[key].replay(tensors, self._behind, check)

    def _add(self, key: Hashable, model: Cut, given: tuple[object, ...], tensors: dict[int, Tensor]) -> bool:
        """Record; whether that worked."""
        torch.cuda.empty_cache()  # what the calls before left, else it would be held twice
        before = _used()
        if len(self._made) >= KEPT:
            self._made.popitem(last=False)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        begin = time.perf_counter()
        try:
            # Tensors of an inference mode could not be written to outside of it.
            with torch.inference_mode(mode=False), torch.no_grad():
                self._made[key] = Recording(model, given, tensors, self._pool)
        except Exception as error:  # whatever is wrong with recording, running as usual is right
            recover(next(iter(tensors.values())).device)
            self.forget()
            self._works = False
            _log.info("CUDA graphs: off for this model (%s: %s)", type(error).__name__,
                      " ".join(str(error).split())[:200])
            return False
        self.captures += 1
        self.bytes += max(0, _used() - before)
        tables: list[dict[str, Tensor | None]] = []
        for part in model.modules():
            tables += (part._parameters, part._buffers)
        self._tables, self._addresses = tables, _addresses(tables)
        seconds = time.perf_counter() - begin
        _log.info("CUDA graphs: recorded in %.2f s, %.0f MB in all", seconds, self.bytes / 1e6)
        return True


def _used() -> int:
    """Bytes that recordings add to: of the allocator, or of the device where graphs have memory of their own."""
    if not tied():
        return torch.cuda.memory_reserved()
    torch.cuda.synchronize()
    free, size = torch.cuda.mem_get_info()
    return size - free


def _cached() -> int:
    """Bytes that the allocator has and does not use."""
    return torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _addresses(tables: list[dict[str, Tensor | None]]) -> list[int]:
    """Where all tensors lie."""
    return [tensor.data_ptr() for table in tables for tensor in table.values() if tensor is not None]
