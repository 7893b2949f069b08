"""Bars, previews and interruption of a node that runs."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context
from PIL import Image

if TYPE_CHECKING:
    from ...ltx23_core.run.progress import StepInfo

PREVIEW_SIZE = 512  # pixels of the longer side
SECONDS_BETWEEN_TICKS = 0.25  # of a download's bar


def step_progress() -> Callable[[StepInfo], None]:
    """A callback for `Pipeline.sample`: one tick of the node's bar and one preview image a step."""
    bar = ProgressBar(1)

    def on_step(info: StepInfo) -> None:
        if info.preview is None:
            bar.update_absolute(info.step, info.steps)
            return
        # The middle frame: with an image condition the first one shows nothing new.
        middle = info.preview[len(info.preview) // 2]
        image = Image.fromarray(middle.numpy())
        bar.update_absolute(info.step, info.steps, ("JPEG", image, PREVIEW_SIZE))

    return on_step


_said = ("", "")  # the node that said something last, and what


def say(text: str) -> None:
    """Show a text in the node that runs; nothing happens where there is no server or no node (unit tests)."""
    global _said
    context = get_executing_context()
    _said = ("" if context is None else context.node_id, text)
    _show(text)


def add(line: str) -> None:
    """Show a line under what the running node said last; the next one takes its place."""
    context = get_executing_context()
    node, text = _said
    mine = context is not None and node == context.node_id
    _show(f"{text}\n{line}" if mine else line)


def _show(text: str) -> None:
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if instance is not None and context is not None:
        instance.send_progress_text(text, context.node_id)


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
