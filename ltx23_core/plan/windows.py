"""Where the windows of a long video lie, and which tokens belong to one."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import RequestError
from ..geometry import TIME_SCALE, VideoGrid, audio_latent_length, window_problem
from ..memory.estimates import Tokens
from .condition import MOST_LEVELS, Added, Clip, Planned
from .recipes import FRAMES

if TYPE_CHECKING:
    from .latents import PromptPair, PromptText

SLACK = 1e-4   # seconds, when tokens of conditions are counted
OVERLAP = 24  # pixel frames: three latent frames, one second; our choice, there is no official one


@dataclass(frozen=True)
class Windows:
    """Long video: how a timeline is cut into windows, each taking over the end of the one before.

    Attributes:
        length: pixel frames of a window, 8 k + 1; the model knows up to 20 s.
        overlap: pixel frames that a window takes over, a multiple of 8.
        strength: 1 holds them as they are; below, the window may change them, and they are cross-faded.
        prompts: share the time evenly, in order; a window takes the one in the middle of what it adds. Empty: the
            run's prompt throughout. Those that are text are encoded when the run begins.
        resume: folder where finished windows are kept until the run has ended, so that the same call goes on there
            after an interrupt. None: nothing is kept.
    """

    length: int = FRAMES
    overlap: int = OVERLAP
    strength: float = 1.0
    prompts: tuple[PromptPair | PromptText, ...] = ()
    resume: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise RequestError(f"overlap strength is {self.strength}", "a number from 0 to 1", "Use 1.0.")

    def over(self, clip: Clip) -> Timeline:
        """The windows of a clip; raises as `plan_windows`."""
        return Timeline(self, tuple(plan_windows(clip.frames, clip.fps, self.length, self.overlap)))


@dataclass(frozen=True)
class Timeline:
    """`Windows` over a clip."""

    settings: Windows
    windows: tuple[Window, ...]

    @property
    def frames(self) -> int:
        """Pixel frames of a window: they are all of one length."""
        return TIME_SCALE * (self.windows[0].frames - 1) + 1

    @property
    def is_whole(self) -> bool:
        """Whether one window is all of it."""
        return len(self.windows) == 1

    def prompt(self, window: Window, default: PromptPair) -> PromptPair:
        """The prompt of a window."""
        prompts = self.settings.prompts
        if not prompts:
            return default
        share = window.middle / self.windows[-1].video[1]
        return prompts[min(int(share * len(prompts)), len(prompts) - 1)]


@dataclass(frozen=True)
class Window:
    """A span of the timeline that is sampled in one piece. Spans are [start, end).

    Attributes:
        video, audio: latent frames, audio latents.
        held: how many of them at the start are already made by the window before: (video, audio).
        origin: seconds that are subtracted from positions: a window begins where the second latent frame of a clip
            does, since all its latent frames are whole ones.
    """

    video: tuple[int, int]
    audio: tuple[int, int]
    held: tuple[int, int]
    origin: float

    @property
    def frames(self) -> int:
        """Latent frames."""
        return self.video[1] - self.video[0]

    def span(self, stream: str) -> tuple[int, int]:
        """[start, end) in the timeline of "video" or "audio"."""
        return {"video": self.video, "audio": self.audio}[stream]

    def held_of(self, stream: str) -> int:
        """How many at the start are already made, of "video" or "audio"."""
        video, audio = self.held
        return {"video": video, "audio": audio}[stream]

    @property
    def middle(self) -> float:
        """Latent frame in the middle of what this window adds."""
        return (self.video[0] + self.held[0] + self.video[1]) / 2

    def video_tokens(self, grid: VideoGrid, positions: Tensor) -> Tensor:
        """Indices of the window's tokens and of the appended ones (keyframes, references) that lie in its time.

        Args:
            grid: of the whole timeline.
            positions: (1, 3, N, 2) of the whole timeline's tokens, in seconds along the first axis.
        """
        area = grid.height * grid.width
        own = torch.arange(self.video[0] * area, self.video[1] * area)
        times = positions[0, 0].cpu()
        begin, end = times[own[0], 0], times[own[-1], 1]
        further = times[grid.tokens:]
        inside = (further[:, 1] > begin) & (further[:, 0] < end)
        return torch.cat((own, grid.tokens + inside.nonzero()[:, 0]))

    def audio_tokens(self, positions: Tensor | None = None) -> Tensor:
        """Indices of the window's audio tokens; with positions (B, 1, N, 2) also those of a reference voice."""
        own = torch.arange(*self.audio)
        if positions is None:
            return own
        return torch.cat((own, (positions[0, 0, :, 1] < 0).nonzero()[:, 0].to(own.device)))


def prompts_of(text: str) -> list[str]:
    """The prompts of a text, divided by lines of three or more dashes; empty ones are left out."""
    parts = re.split(r"(?m)^[ \t]*-{3,}[ \t]*\r?$", text)
    return list(filter(None, map(str.strip, parts)))


def first_frame(latent: int) -> int:
    """First pixel frame of a latent frame: the first of a clip covers one frame, the others eight."""
    return max(TIME_SCALE * (latent - 1) + 1, 0)


def plan_windows(frames: int, fps: float, window: int, overlap: int) -> list[Window]:
    """Windows of one length over a timeline; the last one ends with it and may overlap more.

    Args:
        frames: pixel frames of the whole, 8 k + 1.
        fps: frames per second.
        window: pixel frames of a window, 8 k + 1.
        overlap: pixel frames that a window takes over from the one before, a multiple of 8.

    Raises:
        RequestError: a window that is no length of a clip, or an overlap that does not fit it.
    """
    length, total = (window - 1) // TIME_SCALE + 1, (frames - 1) // TIME_SCALE + 1
    problem = window_problem(window, overlap if total > length else None)
    if problem:
        raise RequestError(*problem)
    starts = [0]
    while starts[-1] + length < total:
        following = starts[-1] + length - overlap // TIME_SCALE
        starts.append(min(following, total - length))
    sound = audio_latent_length(frames, fps)
    windows: list[Window] = []
    for start in starts:
        end = min(start + length, total)
        audio = (_audio_at(start, fps), _audio_at(end, fps))
        if end == total:
            audio = (audio[0], sound)
        if not windows:
            windows.append(Window((start, end), audio, held=(0, 0), origin=0.0))
            continue
        before = windows[-1]
        held = (before.video[1] - start, before.audio[1] - audio[0])
        windows.append(Window((start, end), audio, held, origin=(first_frame(start) - 1) / fps))
    return windows


def _audio_at(latent: int, fps: float) -> int:
    """The audio latent that begins with a latent frame."""
    return round(first_frame(latent) / fps * AUDIO_LATENTS_PER_SECOND)


def largest_call(conditions: Sequence[Planned], clip: Clip, grid: VideoGrid, number: int,
                 timeline: Timeline) -> Tokens:
    """The call with most tokens of a stage, over its windows, from shapes alone.

    Args:
        conditions: of the run.
        clip: what is made.
        grid: of the whole clip at the stage's size.
        number: of the stage, from 1.
        timeline: windows.
    """
    added = Added(times=torch.zeros(0, 2))
    for condition in conditions:
        if hasattr(condition, "added"):
            added = added.beside(condition.added(clip, grid, number))
    video = audio = 0
    for window in timeline.windows:
        inside, sound = len(added.times), audio_latent_length(clip.frames, clip.fps)
        if not timeline.is_whole:
            inside, sound = _inside(added.times, window, clip.fps), window.audio[1] - window.audio[0]
        video = max(video, window.frames * grid.height * grid.width + inside)
        audio = max(audio, sound)
    levels = []
    for held in added.held:
        if not timeline.is_whole:
            held = held | {timeline.settings.strength}
        levels.append(min(1 + len(held), MOST_LEVELS))
    if added.soft:
        levels[0] = MOST_LEVELS
    return Tokens(video * clip.video, (audio + added.sound) * clip.audio, (levels[0], levels[1]), added.masked)


def _inside(times: Tensor, window: Window, fps: float) -> int:
    """How many of [start, end) lie in a window's time."""
    first, last = window.video
    begin, end = first_frame(first) / fps, first_frame(last) / fps
    return int(((times[:, 1] > begin - SLACK) & (times[:, 0] < end + SLACK)).sum())
