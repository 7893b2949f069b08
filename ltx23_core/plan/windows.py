"""Where the windows of a long video lie, and which tokens belong to one."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import RequestError
from ..geometry import TIME_SCALE, VideoGrid, audio_latent_length, window_problem
from .condition import Clip
from .recipes import FRAMES

if TYPE_CHECKING:
    from .context import PromptPair

OVERLAP = 24  # pixel frames: three latent frames, one second; our choice, there is no official one


@dataclass(frozen=True)
class Windows:
    """Long video: how a timeline is cut into windows, each taking over the end of the one before.

    Attributes:
        length: pixel frames of a window, 8 k + 1; the model knows up to 20 s.
        overlap: pixel frames that a window takes over, a multiple of 8.
        strength: 1 holds them as they are; below, the window may change them, and they are cross-faded.
        prompts: share the time evenly, in order; a window takes the one in the middle of what it adds. Empty: the
            run's prompt throughout.
        resume: folder where finished windows are kept until the run has ended, so that the same call goes on there
            after an interrupt. None: nothing is kept.
    """

    length: int = FRAMES
    overlap: int = OVERLAP
    strength: float = 1.0
    prompts: tuple[PromptPair, ...] = ()
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

    def prompt(self, window: Window, default: PromptPair) -> PromptPair:
        """The prompt of a window."""
        prompts = self.settings.prompts
        share = window.middle / self.windows[-1].video[1]
        return prompts[min(int(share * len(prompts)), len(prompts) - 1)] if prompts else default


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

    def audio_tokens(self) -> Tensor:
        """Indices of the window's audio tokens."""
        return torch.arange(*self.audio)


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
    shared = overlap // TIME_SCALE
    starts = [0]
    while starts[-1] + length < total:
        starts.append(min(starts[-1] + length - shared, total - length))
    sound = audio_latent_length(frames, fps)

    def audio_at(latent: int) -> int:
        return sound if latent >= total else round(first_frame(latent) / fps * AUDIO_LATENTS_PER_SECOND)

    windows: list[Window] = []
    for start in starts:
        end = min(start + length, total)
        video, audio = (start, end), (audio_at(start), audio_at(end))
        held = (windows[-1].video[1] - start, windows[-1].audio[1] - audio[0]) if windows else (0, 0)
        windows.append(Window(video, audio, held, (first_frame(start) - 1) / fps if start else 0.0))
    return windows
