"""One worker: a fresh process with a pipeline, which does what the process that started it asks, until that one ends.

Commands come on standard input, answers go to what was standard output; whatever a library prints goes to the log.
"""
from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LTX23Error, OutOfMemoryError
from ..parallel.gate import Gate, Interrupted
from .messages import Pipe

STARTER_GONE = 3  # exit code


@dataclass(frozen=True)
class Start:
    """What a worker is.

    Attributes:
        rank, size: of the run; one rank of one is a worker alone.
        device: name of its device.
        meeting: through which the ranks find each other, as of `World.join`.
        options: of `Pipeline`, beside those of the ranks.
        memory: as of `Pipeline`.
        threads: of its processor; 0: torch's choice.
    """

    rank: int
    size: int
    device: str
    meeting: Path | str
    options: dict[str, Any]
    memory: str | float = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Call:
    """One thing to do: a method of the pipeline with these LoRAs.

    Attributes:
        number: of the call; answers bear it.
        method: a name in `TOGETHER` or `FIRST`.
        loras: of the view.
        arguments, options: of the method.
    """

    number: int
    method: str
    loras: tuple[object, ...]
    arguments: tuple[object, ...]
    options: dict[str, Any]


TOGETHER = frozenset({"run", "_encode", "decode_video", "release"})
"""What all ranks do; `_encode` shares out by itself."""
FIRST = frozenset({"enhance", "upscale", "encode_video", "encode_audio", "preview_map", "decode_audio"})
"""What the first rank does while the others wait."""


class Worker:
    """Answers calls.

    Args:
        pipe: to the process that started this one.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._gate = pipe, Gate()
        self._calls: queue.SimpleQueue[Call | Start] = queue.SimpleQueue()
        self._pipeline: Any = None
        self._first, self._size = True, 1

    def serve(self) -> None:
        """Answer until the other end is gone."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._answer(self._calls.get())

    def _listen(self) -> None:
        """Take commands while the other thread computes; ends this process with the one that started it."""
        try:
            while True:
                message = self._pipe.receive()
                if isinstance(message, (Call, Start)):
                    self._calls.put(message)
                elif message == "hold":
                    self._pipe.send(("held", self._gate.hold()))
                else:
                    self._gate.release(message)
        except (EOFError, OSError):
            os._exit(STARTER_GONE)  # also where the other thread waits for a device or for other ranks

    def _answer(self, command: Call | Start) -> None:
        number = getattr(command, "number", 0)
        apart = self._size == 1 or getattr(command, "method", None) in FIRST
        self._gate.open(apart)
        try:
            if isinstance(command, Start):
                self._start(command)
                answer = "done", number, None
            else:
                answer = "done", number, self._call(command)
        except BaseException as error:
            answer = "error", number, self._told(error)
        self._pipe.send(answer)

    def _told(self, error: BaseException) -> BaseException:
        """An error as the other process can have it."""
        import torch

        if isinstance(error, (LTX23Error, Interrupted)):
            return error
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return OutOfMemoryError(f"{self._where} ran out of memory ({str(error).splitlines()[0]})",
                                    "enough free memory on every device",
                                    "Choose a smaller size, fewer frames, or memory stream in Load.")
        logging.getLogger("ltx23").error("%s failed", self._where, exc_info=error)
        return RuntimeError(f"{self._where}: {type(error).__name__}: {error}")

    def _start(self, start: Start) -> None:
        """Meet the other ranks and make a pipeline; no weights are read."""
        import torch

        from ..parallel.team import Team
        from ..parallel.world import World
        from ..pipeline import Pipeline
        from .counting import CountingResidency

        self._where = f"worker {start.rank + 1} of {start.size} ({start.device})"
        self._first, self._size = start.rank == 0, start.size
        if start.threads:
            torch.set_num_threads(start.threads)
        device = torch.device(start.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        team = None
        if start.size > 1:
            world = World.join(start.rank, start.size, device, start.meeting)
            team = Team(world, lambda text: self._pipe.send(("plan", text)), self._gate)
        residency = CountingResidency(device, memory=start.memory, check=self._gate.check, tell=self._count)
        self._pipeline = Pipeline(**start.options, residency=residency, team=team)

    def _count(self, done: int, total: int) -> None:
        """Ranks do the same at the same time, so one of them is enough."""
        if self._first:
            self._pipe.send(("counted", (done, total)))

    def _call(self, call: Call) -> object:
        if call.method not in TOGETHER | FIRST:
            raise ValueError(call.method)
        if call.method in FIRST and not self._first:
            return None
        pipeline = self._pipeline.with_loras(call.loras) if call.loras else self._pipeline
        if call.method == "run":
            return self._run(pipeline, *call.arguments, **call.options)
        if call.method == "release":
            return pipeline.residency.release()
        options = dict(call.options)
        if options.pop("tokens", False):
            options["on_token"] = lambda: self._pipe.send(("token", None))
        made = getattr(pipeline, call.method)(*call.arguments, **options)
        if not isinstance(made, Iterator):
            return self._result(made)
        self._send_parts(made)
        return None

    def _send_parts(self, parts: Iterator[object]) -> None:
        """A part travels while the next one is made."""
        with ThreadPoolExecutor(1, thread_name_prefix="ltx23-send") as sender:
            last: Future[None] | None = None
            for part in parts:
                if last is not None:
                    last.result()
                last = sender.submit(self._pipe.send, ("part", part))
            if last is not None:
                last.result()

    def _run(self, pipeline: Any, decision: object, context: object, preview: bool, steps: bool) -> object:  # noqa: ANN401
        from ..run.plan import Plan

        on_step = None
        if steps and self._first:
            def on_step(info: object) -> None:
                self._pipe.send(("step", info))

        def say(text: str) -> None:
            if self._first:
                self._pipe.send(("said", text))

        return self._result(Plan(decision, pipeline).run(context, on_step, preview=preview, say=say))

    def _result(self, made: object) -> object:
        """What the other process gets: of ranks that made the same, one result."""
        if self._first:
            return made
        return None


def main() -> None:
    """A worker's whole life."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ltx23").setLevel(os.environ.get("LTX23_WORKER_LOG", "WARNING"))
    incoming, outgoing = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # programs that are started here, such as compilers, must not take commands for their input
    os.close(nothing)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (for this process's whole life)
    Worker(Pipe(incoming, outgoing)).serve()
