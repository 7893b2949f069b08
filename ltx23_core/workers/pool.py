"""Worker processes seen from the process that starts them: started by a command, asked, interrupted, ended together."""
from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import RequestError, WorkerError
from ..parallel.gate import Interrupted
from .messages import Pipe
from .worker import Call, Start

log = logging.getLogger("ltx23")

ROOT = Path(__file__).resolve().parents[2]
# The library under its own name, wherever it lies: a pack's name is a path, and some Pythons ignore PYTHONPATH.
COMMAND = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ltx23_core.workers.worker import main; main()"
START_SECONDS = 180.0  # to import torch, meet, and make a pipeline
STOP_SECONDS = 30.0    # from an interrupt, or an error of one rank, until all have answered
GRACE_SECONDS = 5.0    # after one rank failed: the others may be in an exchange that never ends
LOOK_SECONDS = 0.05    # between two looks at whether the run is to end
WAITING = 16           # messages of a rank that may wait here; more, and it waits

Check = Callable[[], None]


def _nothing() -> None:
    """No interrupt."""


class Handle(Protocol):
    """A process, as of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def wait(self, timeout: float) -> int:
        """Wait for its end."""

    def kill(self) -> None:
        """End it."""


@dataclass
class Process:
    """One worker and the pipe to it."""

    process: Handle
    pipe: Pipe


@dataclass
class _Answers:
    """What came of a call so far, by rank."""

    values: dict[int, object] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)

    def missing(self, ranks: int) -> list[int]:
        """Ranks that have not answered."""
        return [rank for rank in range(ranks) if rank not in self.values and rank not in self.errors]


class Ranks:
    """Workers that compute one run together, on devices of this computer.

    They start at the first call and stay, with their weights, until `close`, or until this process ends. When one
    ends unasked, the others are ended, the call raises `WorkerError`, and the next call starts all again.

    Args:
        devices: names, one for each rank.
        options: of `Pipeline`, the same for all; the overlay as the path of its manifest or whole.
        memory: as of `Pipeline`, on each device.
    """

    def __init__(self, devices: Sequence[str], options: Mapping[str, Any], memory: str | float = "auto") -> None:
        self.devices, self._options, self._memory = tuple(devices), dict(options), memory
        self._processes: list[Process] = []
        self._inbox: queue.Queue[tuple[int, object]] = queue.Queue(WAITING * len(devices))
        self._number = 0
        self._lock = threading.Lock()
        self._caller: int | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._ender = weakref.finalize(self, _end, self._processes)

    @property
    def size(self) -> int:
        """How many."""
        return len(self.devices)

    @property
    def alive(self) -> bool:
        """Whether all are there."""
        return bool(self._processes) and all(each.process.poll() is None for each in self._processes)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers, by rank."""
        return tuple(each.process.pid for each in self._processes)

    def close(self) -> None:
        """End all."""
        _end(self._processes)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        with contextlib.suppress(queue.Empty):
            while True:  # a thread may wait to put something in
                self._inbox.get_nowait()

    # -- calls -------------------------------------------------------------------------------------------------------
    def call(self, method: str, *arguments: object, loras: Sequence[object] = (), check: Check = _nothing,
             heard: Mapping[str, Callable[[Any], None]] | None = None, **options: object) -> object:
        """Have all ranks do one thing; the first one's result.

        Args:
            method: of `worker.TOGETHER` or `worker.FIRST`.
            arguments, options: of the method.
            loras: of the view of the pipeline.
            check: called some times a second; what it raises ends the call, and the workers stay.
            heard: kind of message ("step", "said", "plan", "token", "counted") -> what takes it.

        Raises:
            WorkerError: a worker ended, or cannot be started. Else what the ranks raise.
        """
        *_, last = self.stream(method, *arguments, loras=loras, check=check, heard=heard, **options)
        return last

    def stream(self, method: str, *arguments: object, loras: Sequence[object] = (), check: Check = _nothing,
               heard: Mapping[str, Callable[[Any], None]] | None = None, **options: object) -> Iterator[object]:
        """`call`, whose parts are yielded as they come, and then the result. Letting go of it ends the call."""
        with self._alone(check):
            if not self.alive:
                self._start(check)
            self._number += 1
            call = Call(self._number, method, tuple(loras), arguments, options)
            self._say(call)
            answers, heard = _Answers(), heard or {}
            try:
                yield from self._listen(answers, method, check, heard)
            except BaseException as error:
                if not isinstance(error, WorkerError) and self.alive and answers.missing(self.size):
                    self._stop(answers, method)
                raise
            yield answers.values.get(0)

    @contextlib.contextmanager
    def _alone(self, check: Check) -> Iterator[None]:
        """One call at a time; others wait."""
        if self._caller == threading.get_ident():
            raise RequestError("a video is still being decoded on these workers", "one call at a time",
                               "Take all of its frames, or close it, before the next call.")
        while not self._lock.acquire(timeout=LOOK_SECONDS):
            check()
        self._caller = threading.get_ident()
        try:
            yield
        finally:
            self._caller = None
            self._lock.release()

    def _listen(self, answers: _Answers, doing: str, check: Check,
                heard: Mapping[str, Callable[[Any], None]]) -> Iterator[object]:
        """Take messages until all ranks have answered."""
        deadline = float("inf")
        while answers.missing(self.size):
            check()
            message = self._next(answers, doing)
            if message is not None:
                kind, value = message
                if kind == "part":
                    yield value
                elif kind in heard:
                    heard[kind](value)
            if answers.errors:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > deadline:
                break
        if answers.errors:
            if answers.missing(self.size):
                self.close()  # they wait for the one that failed
            raise _worst(answers.errors)

    def _next(self, answers: _Answers, doing: str) -> tuple[str, Any] | None:
        """The next message that is no answer; answers are put where they belong."""
        try:
            rank, message = self._inbox.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            return None
        if message is None:
            self._ended(rank, doing)
        kind, *rest = message
        if kind in ("done", "error"):
            number, value = rest
            if number == self._number:
                (answers.values if kind == "done" else answers.errors)[rank] = value
            return None
        return kind, rest[0]

    def _stop(self, answers: _Answers, doing: str) -> None:
        """End a call on all ranks at the same place; workers that do not stop are ended."""
        deadline = time.monotonic() + STOP_SECONDS
        passed: dict[int, int] = {}
        told = False
        with contextlib.suppress(WorkerError):
            self._say("hold")
            while answers.missing(self.size) and time.monotonic() < deadline:
                message = self._next(answers, doing)
                if message is not None and message[0] == "held":
                    passed[len(passed)] = message[1]
                if len(passed) == self.size and not told:
                    told = True
                    self._say(max(passed.values()) + 1)
                elif answers.errors:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if answers.missing(self.size):
            self.close()

    def _say(self, message: object) -> None:
        """To all."""
        for each in self._processes:
            with contextlib.suppress(OSError, ValueError):  # it has ended: its own thread says so
                each.pipe.send(message)

    def _ended(self, rank: int, doing: str) -> None:
        """One has ended unasked: end the others."""
        process = self._processes[rank].process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        code = process.poll()
        self.close()
        how = f"with code {code}"
        if code is not None and code < 0:
            how = f"by signal {-code}"
        raise WorkerError(f"worker {rank + 1} of {self.size} ({self.devices[rank]}) ended {how} during {doing}",
                          "workers that stay until ComfyUI ends",
                          "Run it again: the workers are started anew. The log says what the worker printed last.")

    # -- starting ----------------------------------------------------------------------------------------------------
    def _start(self, check: Check) -> None:
        self.close()
        self._inbox = queue.Queue(WAITING * self.size)
        try:
            with self._launched() as (processes, meeting):
                threads = 0
                if self.devices[0] == "cpu":
                    threads = max(1, (os.cpu_count() or 1) // self.size)
                for rank, each in enumerate(processes):
                    self._processes.append(each)
                    _listen_to(rank, each.pipe, self._inbox)
                    each.pipe.send(Start(rank, self.size, self.devices[rank], meeting, self._options, self._memory,
                                         threads))
                self._wait_for_start(check)
        except BaseException:
            self.close()
            raise

    def _wait_for_start(self, check: Check) -> None:
        self._number = 0
        answers, deadline = _Answers(), time.monotonic() + START_SECONDS
        while answers.missing(self.size) and not answers.errors:
            check()
            self._next(answers, "starting")
            if time.monotonic() > deadline:
                raise WorkerError(f"{len(answers.missing(self.size))} of {self.size} workers did not start in "
                                  f"{START_SECONDS:.0f} s", "workers that start",
                                  "Run it again; if it stays so, set devices to 1 in Load.")
        if answers.errors:
            raise _worst(answers.errors)

    @contextlib.contextmanager
    def _launched(self) -> Iterator[tuple[Iterator[Process], Path | str]]:
        """New processes, one for each device, and where they meet: now, and whenever some of them form a group."""
        self._folder = tempfile.TemporaryDirectory(prefix="ltx23-", ignore_cleanup_errors=True)
        yield (_process() for _ in self.devices), Path(self._folder.name) / "meeting"


def _process() -> Process:
    """A new process on this computer."""
    try:
        process = subprocess.Popen([sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   bufsize=0, env=_environment())
    except OSError as error:
        raise WorkerError(f"no worker can be started ({error})", f"a Python at {sys.executable}",
                          "Set devices to 1 in Load.") from error
    return Process(process, Pipe(process.stdout, process.stdin))


def _listen_to(rank: int, pipe: Pipe, inbox: queue.Queue) -> None:
    """A thread that puts what a worker says into the inbox; None is its end."""
    def listen() -> None:
        try:
            while True:
                inbox.put((rank, pipe.receive()))
        except (EOFError, OSError, ValueError):
            inbox.put((rank, None))

    threading.Thread(target=listen, daemon=True, name=f"ltx23 worker {rank + 1}").start()


def _environment() -> dict[str, str]:
    """Of a worker: this one's, with torch's own allocator, beside which forwards can be recorded."""
    made = dict(os.environ)
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "cudaMallocAsync" in made.get(name, ""):
            del made[name]
    return made


def _end(processes: list[Process]) -> None:
    """End processes and wait for them."""
    for each in processes:
        with contextlib.suppress(OSError):
            each.process.kill()
    for each in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.process.wait(STOP_SECONDS)
    processes.clear()


def _worst(errors: Mapping[int, BaseException]) -> BaseException:
    """The error that tells most: one of a rank that failed by itself, before those that it took along."""
    def weight(error: BaseException) -> int:
        kinds = (WorkerError, Interrupted, RuntimeError)
        return sum(isinstance(error, kind) for kind in kinds)

    return min(errors.values(), key=weight)
