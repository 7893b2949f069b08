"""What a run shows at every step: the node's bar, a moving preview, and a line about where it is."""
from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..host import progress, server

if TYPE_CHECKING:
    from torch import Tensor

    from ...ltx23_core.plan.decide import Decision
    from ...ltx23_core.run.progress import StepInfo

FRAMES = 16         # of a preview
FRAME_PIXELS = 128  # longer side of one; a latent cell is one pixel of a map, so more would show no more
EVENT = "ltx23.preview"  # to a page that plays previews itself
SHARE = 0.01        # of a run's time that previews may take; where steps are short not every one has one
ADDRESS, MOST_PAGES, LONGEST_ID = "/ltx23/player", 1000, 100

_pages: dict[str, None] = {}  # clients whose page plays previews; others get ComfyUI's own kind


def step_progress(plan: Decision) -> Callable[[StepInfo], None]:
    """A callback for a run: at each step one tick of the node's bar, one preview, and one line under it."""
    bar, clock, spent = progress.ProgressBar(1), Clock(), 0.0

    def on_step(info: StepInfo) -> None:
        nonlocal spent
        progress.say(caption(plan, info, *clock.step(info)), "step")
        if info.preview is None or progress.client() is None or spent > SHARE * clock.elapsed:
            bar.update_absolute(info.step, info.steps)
            return
        begin = time.perf_counter()
        show(bar, plan, info)
        spent += time.perf_counter() - begin

    return on_step


def show(bar: progress.ProgressBar, plan: Decision, info: StepInfo) -> None:
    """One step with its preview, to a page that plays it or as ComfyUI sends previews to all others."""
    picture, columns, count = sheet(info.preview)
    if progress.client() not in _pages:
        bar.update_absolute(info.step, info.steps, ("JPEG", picture, None))
        return
    bar.update_absolute(info.step, info.steps)
    facts = {"columns": columns, "count": count, "seconds": plan.clip.seconds}
    progress.tell(EVENT, {**facts, "image": encoded(picture)})


def add_page(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A page tells that it plays the previews of its runs ({"client": its id})."""
    client = asked.get("client")
    if isinstance(client, str) and 0 < len(client) <= LONGEST_ID:
        _pages[client] = None
        while len(_pages) > MOST_PAGES:
            del _pages[next(iter(_pages))]
    return {}


server.add_command(ADDRESS, add_page)


def encoded(picture: Image.Image) -> str:
    """A picture as the address of a JPEG, for an event in JSON."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


class Clock:
    """Seconds a step of the stage takes, and until the end at this pace."""

    def __init__(self) -> None:
        self._stage = -1
        self._start = self._begin = self._last = time.perf_counter()
        self._first = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._last - self._start

    def step(self, info: StepInfo) -> tuple[float, float]:
        """Tell that a step is done."""
        now = time.perf_counter()
        if info.stage != self._stage or info.stage_step <= 1:  # loading is part of a stage's first step: begin after it
            self._stage, self._begin, self._first = info.stage, now, info.step
            pace = now - self._last
        else:
            pace = (now - self._begin) / (info.step - self._first)
        self._last = now
        return pace, pace * (info.steps - info.step)


def caption(plan: Decision, info: StepInfo, pace: float, left: float) -> str:
    """ "768x512 · 5.04 s · stage 1/2 · step 7/30 · 3.1 s/step · 1:12 left"."""
    clip = plan.clip
    parts = [f"{clip.seconds:.2f} s"]
    if clip.video:
        parts.insert(0, f"{clip.width}x{clip.height}")
    if plan.batch > 1:
        parts.append(f"sample {math.ceil(info.step * plan.batch / info.steps)}/{plan.batch}")
    if info.stages > 1:
        parts.append(f"stage {info.stage}/{info.stages}")
    parts.append(f"step {info.stage_step}/{info.stage_steps}")
    parts.append(f"{pace:.1f} s/step")
    parts.append(f"{clock_time(left)} left")
    return " · ".join(parts)


def clock_time(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 1:12, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def sheet(frames: Tensor) -> tuple[Image.Image, int, int]:
    """Frames of a clip side by side in one picture, row by row; its columns and the number of frames.

    Args:
        frames: uint8 (F, H, W, 3) on the CPU; at most `FRAMES` of them are taken, evenly.
    """
    total, height, width, _ = frames.shape
    count = min(total, FRAMES)
    columns = math.ceil(math.sqrt(count))
    scale = max(1, round(FRAME_PIXELS / max(height, width)))
    size = (width * scale, height * scale)
    made = Image.new("RGB", (columns * size[0], math.ceil(count / columns) * size[1]))
    for place in range(count):
        at = round(place * (total - 1) / max(count - 1, 1))
        one = Image.fromarray(frames[at].numpy()).resize(size, Image.Resampling.BILINEAR)
        row, column = divmod(place, columns)
        made.paste(one, (column * size[0], row * size[1]))
    return made, columns, count
