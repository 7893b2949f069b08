"""Windows of a long video over one layout of time: which tokens are a window's, what it takes over, how it is joined.

A stream's timeline is a tensor (B, time, rows, C): rows = H' W' tokens of a latent frame, or 1 of sound. A window is
a slice of time.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..geometry import VideoGrid
from ..plan.windows import Timeline, Window
from ..sampling.state import StatePair, Streams, StreamState

WINDOW_SEED = 1_000_003
SEED_MASK = (1 << 63) - 1
Made = dict[str, Tensor]
"""What is made so far of "video" and "audio", (B, time, rows, C); an absent stream has no entry."""


def empty(states: StatePair, grid: VideoGrid, timeline: Timeline) -> Made:
    """Zeros for the timeline of each stream that is there, without the tokens that conditions appended."""
    end = timeline.windows[-1]
    shapes = {"video": (grid.frames, grid.height * grid.width), "audio": (end.audio[1], 1)}
    return {name: state.clean.new_zeros(state.clean.shape[0], *shapes[name], state.clean.shape[2])
            for name, state in zip(("video", "audio"), states, strict=True) if state is not None}


def window_index(window: Window, grid: VideoGrid, states: StatePair) -> Streams:
    """Which tokens of the timeline each stream of a window has, int64 (N,)."""
    video, audio = states
    index = [None, None]
    if video is not None:
        index[0] = window.video_tokens(grid, video.positions)
    if audio is not None:
        index[1] = window.audio_tokens(audio.positions)
    return index[0], index[1]


def window_generator(like: torch.Generator, seed: int, number: int) -> torch.Generator:
    """A window's own generator: a run that is resumed goes on as if it had never stopped."""
    return torch.Generator(like.device).manual_seed((seed + WINDOW_SEED * number) & SEED_MASK)


def hold(state: StreamState | None, made: Tensor | None, window: Window, name: str,
         strength: float) -> StreamState | None:
    """A window's state whose first tokens are what the window before made, held with a strength of 0 to 1."""
    held, start = window.held_of(name), window.span(name)[0]
    if state is None or made is None or not held:
        return state
    taken = made[:, start:start + held].flatten(1, 2)
    clean, mask = state.clean.clone(), state.mask.clone()
    clean[:, :taken.shape[1]] = taken
    mask[:, :taken.shape[1]] = mask[:, :taken.shape[1]].clamp(max=1.0 - strength)
    return replace(state, clean=clean, mask=mask)


def fade(held: int, device: torch.device) -> Tensor:
    """Weights (held,) of the new window in the overlap, rising from 0 towards 1."""
    return torch.arange(1, held + 1, device=device, dtype=torch.float32) / (held + 1)


def fade_in(place: Tensor, part: Tensor, held: int) -> None:
    """Put a window's result into its place in the timeline, both (B, time, …), cross-faded over the first ``held``."""
    if held:
        weight = fade(held, place.device).view(1, held, *[1] * (place.ndim - 2))
        old, new = place[:, :held].float(), part[:, :held].float()
        place[:, :held] = torch.lerp(old, new, weight).to(place.dtype)
    place[:, held:] = part[:, held:]
