"""Sizes: pixels, frames and seconds <-> latent grid and tokens; what is valid, and the nearest valid values.

Formulas of spec/00 §3, §4 and spec/02 §4. Nothing here imports torch except the position tables.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import AUDIO_LATENTS_PER_SECOND, VIDEO_SCALE
from .errors import GeometryError

if TYPE_CHECKING:
    import torch

TIME_SCALE, HEIGHT_SCALE, WIDTH_SCALE = VIDEO_SCALE
AUDIO_FRAMES_PER_LATENT = 4
Problem = tuple[str, str, str]  # found, expected, fix: what an error of `errors` takes
AUDIO_HOP, AUDIO_RATE = 160, 16000  # samples a mel frame and samples a second of the mel front end


@dataclass(frozen=True)
class VideoGrid:
    """Latent cells of a video: frames, height, width. One cell is one token."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of tokens; flatten order is frame, row, column (column fastest)."""
        return self.frames * self.height * self.width

    @property
    def pixel_frames(self) -> int:
        """Frames after decoding: 8 (F' - 1) + 1."""
        return TIME_SCALE * (self.frames - 1) + 1


def video_grid(width: int, height: int, frames: int) -> VideoGrid:
    """Latent grid of a video in pixels; no validation (see `check_size`)."""
    return VideoGrid((frames - 1) // TIME_SCALE + 1, height // HEIGHT_SCALE, width // WIDTH_SCALE)


def audio_latent_length(frames: int, fps: float) -> int:
    """Audio latents of a video: round(frames / fps * 25), halves to even (spec/00 §3)."""
    return round(frames / fps * AUDIO_LATENTS_PER_SECOND)


def _nearest(value: int, step: int, offset: int = 0) -> tuple[int, int]:
    """The valid values below and above one: offset + a multiple of step, at least step (or the offset)."""
    low = max((value - offset) // step * step + offset, offset or step)
    return low, low + step


def _side_problem(width: int | None, height: int | None, step: int) -> Problem | None:
    """What is wrong with one side or both; the fix for both names whole sizes."""
    wrong = {}
    for name, value in (("width", width), ("height", height)):
        if value is not None and (value < step or value % step):
            wrong[name] = value
    if not wrong:
        return None
    found = " and ".join(f"{name} is {value}" for name, value in wrong.items())
    if len(wrong) == 1:
        [value] = wrong.values()
        low, high = _nearest(value, step)
        return f"{found} pixels", f"a multiple of {step}", f"Use {low} or {high}."
    near = min(_nearest(height, step), key=lambda value: abs(value - height))
    low, high = _nearest(width, step)
    return f"{found} pixels", f"multiples of {step}", f"Use {low}x{near} or {high}x{near}."


def _time_problem(frames: int | None, fps: float | None) -> Problem | None:
    """What is wrong with a number of frames that alone would be right and a rate that would be."""
    if frames is None or fps is None or audio_latent_length(frames, fps) >= 1:
        return None
    return (f"{frames} frames at {fps} fps last {frames / fps:.3f} s", "at least 0.02 s, one audio latent",
            "Use more frames or a lower frame rate.")


def size_problem(width: int | None, height: int | None, frames: int | None, fps: float | None,
                 step: int = 32) -> Problem | None:
    """All that is wrong with a size, as (found, expected, fix), or None.

    Args:
        width, height: pixels; multiples of 32, of 64 where the first stage runs at half size. None: not checked.
        frames: 8 k + 1.
        fps: frames per second, above 0.
        step: 32 or 64.
    """
    problems = [_side_problem(width, height, step)]
    if frames is not None and (frames < 1 or frames % TIME_SCALE != 1):
        low, high = _nearest(frames, TIME_SCALE, 1)
        problems.append((f"frames is {frames}", "8 k + 1 (1, 9, 17, … 121)", f"Use {low} or {high}."))
        frames = None
    if fps is not None and not 0 < fps <= 1000:
        problems.append((f"fps is {fps}", "a frame rate above 0 and up to 1000", "Use 24."))
        fps = None
    return joined([*problems, _time_problem(frames, fps)])


def joined(problems: Iterable[Problem | None]) -> Problem | None:
    """Several problems as one, so that all are told at once; None where there is none."""
    real = [problem for problem in problems if problem is not None]
    if not real:
        return None
    found, expected, fixes = zip(*real, strict=True)
    return "; ".join(found), "; ".join(expected), " ".join(fixes)


def window_problem(window: int | None, overlap: int | None) -> tuple[str, str, str] | None:
    """What is wrong with the windows of a long video, as (found, expected, fix), or None; None is not checked.

    Args:
        window: pixel frames of a window, 8 k + 1.
        overlap: pixel frames that a window takes over, a multiple of 8 that is shorter than the window.
    """
    if window is not None and (window < 1 or window % TIME_SCALE != 1):
        low, high = _nearest(window, TIME_SCALE, 1)
        return f"window is {window} frames", "8 k + 1 (17, 25, … 121)", f"Use {low} or {high}."
    if overlap is None:
        return None
    if overlap < TIME_SCALE or overlap % TIME_SCALE or (window and overlap >= window):
        return f"overlap is {overlap} frames", "a multiple of 8 that is less than the window", "Use 24."
    return None


def check_size(width: int, height: int, frames: int, fps: float, step: int = 32) -> None:
    """Raise `GeometryError` naming the nearest valid values if LTX-2.3 cannot make this size."""
    problem = size_problem(width, height, frames, fps, step)
    if problem:
        raise GeometryError(*problem)


def video_positions(grid: VideoGrid, fps: float, *, start_frame: int | None = None) -> torch.Tensor:
    """[start, end) of every video token: float32 (1, 3, tokens, 2) in seconds, pixels, pixels (spec/02 §4).

    Args:
        fps: frames per second.
        start_frame: None: the clip itself, whose first latent covers one frame. A pixel frame index: one latent
            frame that covers [index, index + 1) (a keyframe, spec/07 §8).
    """
    import torch
    axes = [torch.arange(n, dtype=torch.float32) for n in (grid.frames, grid.height, grid.width)]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    scale = torch.tensor(VIDEO_SCALE, dtype=torch.float32)[:, None]
    spans = torch.stack((cells * scale, (cells + 1) * scale), dim=-1)
    if start_frame is None:
        spans[0] = (spans[0] + 1 - TIME_SCALE).clamp(min=0)
    else:
        spans[0, :, 0], spans[0, :, 1] = start_frame, start_frame + 1
    spans[0] = spans[0] / fps
    return spans[None]


def audio_positions(length: int) -> torch.Tensor:
    """[start, end) in seconds of every audio token: float32 (1, 1, length, 2) (spec/02 §4)."""
    import torch
    edges = torch.arange(length + 1, dtype=torch.float32) * AUDIO_FRAMES_PER_LATENT
    edges = (edges + 1 - AUDIO_FRAMES_PER_LATENT).clamp(min=0)
    edges = edges * AUDIO_HOP / AUDIO_RATE  # not times 0.01: that rounds otherwise than the official code
    return torch.stack((edges[:-1], edges[1:]), dim=-1)[None, None]
