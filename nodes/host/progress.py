"""Bars, texts and interruption of a node that runs."""
from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context

_CORE = f"{__name__.rsplit('.', 3)[0]}.ltx23_core"  # whose loggers these are
SECONDS_BETWEEN_TICKS = 0.25  # of a bar that counts small things


ORDER = ("step", "text", "note", "memory")  # lines of a node, from the top
_said: tuple[str, dict[str, str]] = ("", {})  # the node that said something last, and what, by the names of ORDER


def say(text: str, what: str = "text") -> None:
    """Show a text in the node that runs, beside what it said of other things; see `ORDER`.

    Nothing happens where there is no server or no node (unit tests).
    """
    global _said
    context = get_executing_context()
    node = ""
    if context is not None:
        node = context.node_id
    if _said[0] != node:
        _said = (node, {})
    _said[1][what] = text
    _show("\n".join(filter(None, map(_said[1].get, ORDER))))


def note(text: str) -> None:
    """Show what the library tells of a run, such as what an earlier one had done."""
    say(text, "note")


def add(line: str) -> None:
    """Show a line about where the model is, under what the node said; the next one takes its place."""
    say(line, "memory")


class _Notes(logging.Handler):
    """Keeps what conditions and latents say in one thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, once."""
        ours = record.name.startswith(f"{_CORE}.conditioning") or record.module == "latents"
        if ours and record.thread == self._thread and record.getMessage() not in self.lines:
            self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """What planning tells in the log meanwhile (a sound too short, frames left out): lines for the node."""
    notes = _Notes()
    loggers = logging.getLogger(_CORE), logging.getLogger("ltx23")
    for each in loggers:
        each.addHandler(notes)
    try:
        yield notes.lines
    finally:
        for each in loggers:
            each.removeHandler(notes)


def _show(text: str) -> None:
    instance, context, asker = _server(), get_executing_context(), client()
    # Without an addressee ComfyUI sends a text to every page, whose own node of that number would show it.
    if asker is not None and context is not None:
        instance.send_progress_text(text, context.node_id, asker)


def tell(event: str, facts: dict[str, Any]) -> None:
    """Send the page an event of ours about the node that runs; only the client that asked for the run gets it."""
    instance, context, asker = _server(), get_executing_context(), client()
    if asker is not None and context is not None:
        instance.send_sync(event, {**facts, "node": context.node_id, "prompt": context.prompt_id}, asker)


def client() -> str | None:
    """Who asked for the run; None where nobody is known."""
    return getattr(_server(), "client_id", None)


def _server() -> Any:  # noqa: ANN401 (ComfyUI's PromptServer)
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class _Phase:
    """A part of a node's work that counts what it does."""

    def __init__(self, total: int) -> None:
        self._bar, self._done, self._total = ProgressBar(total), 0, total
        self._last = time.monotonic()

    def tick(self) -> None:
        """One more is done; the page hears of it some times a second."""
        self._done += 1
        now = time.monotonic()
        if now - self._last > SECONDS_BETWEEN_TICKS:
            self._last = now
            self._bar.update_absolute(min(self._done, self._total), self._total)


_phases: list[_Phase] = []  # the innermost last; ComfyUI runs one node at a time


@contextmanager
def phase(total: int) -> Iterator[None]:
    """While this holds, `tick` moves the node's bar, out of about so many; what runs inside may have its own."""
    _phases.append(_Phase(max(total, 1)))
    try:
        yield
    finally:
        _phases.pop()


def tick() -> None:
    """The library asked whether to go on (`Residency.check`): a layer, a tensor or a tile is done."""
    mm.throw_exception_if_processing_interrupted()
    if _phases:
        _phases[-1].tick()


def count(done: int, total: int) -> None:
    """Move the running node's bar, for work that other processes do."""
    ProgressBar(total).update_absolute(done, total)


def counted(total: int) -> Callable[[Iterable[torch.Tensor]], Iterator[torch.Tensor]]:
    """A function that passes chunks of frames on; the node's bar advances by their frames out of `total`."""
    bar = ProgressBar(total)

    def passed(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))

    return passed


def ticks(total: int) -> Callable[[], None]:
    """A callback that advances the node's bar by one of `total` at each call."""
    bar = ProgressBar(total)
    return lambda: bar.update(1)


def byte_progress() -> Callable[[int, int, str], None]:
    """A callback for downloads: the node's bar, some times a second; raises ComfyUI's exception on cancel."""
    bar, last = ProgressBar(1), 0.0

    def on_progress(done: int, total: int, _: str) -> None:
        nonlocal last
        mm.throw_exception_if_processing_interrupted()
        if total and (done == total or time.monotonic() - last > SECONDS_BETWEEN_TICKS):
            last = time.monotonic()
            bar.update_absolute(done, total)

    return on_progress
