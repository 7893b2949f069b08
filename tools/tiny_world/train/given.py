"""What conditions leave to generate: per clip, which tokens of a training step are given (timestep 0, spec/07 §8)."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.tiny_world.train.configs import FPS, Size
from tools.tiny_world.train.library import audio_latent_length, video_grid

# What a clip has -> how often.
CASES = {"image": 0.46, "beginning": 0.14, "sound": 0.14, "picture": 0.09, "frames": 0.11,
         "cells": 0.06}


@dataclass(frozen=True)
class Given:
    """Tokens to generate: (B, N) floats, 1 for those, 0 for given ones; None: all are generated."""

    video: Tensor | None = None
    audio: Tensor | None = None


def nothing() -> Given:
    """All is generated."""
    return Given()


def given_of(size: Size, count: int, device: torch.device) -> Given:
    """Draw for clips of a size; tensors alone, so that a step can be recorded."""
    grid = video_grid(size.width, size.height, size.frames)
    length, frames = audio_latent_length(size.frames, FPS), grid.frames
    case = torch.searchsorted(_borders(device), torch.rand(count, device=device))[:, None]
    frame, heard = torch.arange(frames, device=device), torch.arange(length, device=device)
    known = torch.randint(1, frames, (count, 1), device=device)
    patchy = torch.rand(count, frames, device=device) < 0.5
    patchy = patchy & (frame != torch.randint(frames, (count, 1), device=device))
    frame_of = (heard * frames // length).clamp(max=frames - 1)
    patchy_sound = patchy[:, frame_of] & (torch.rand(count, 1, device=device) < 0.5)
    heard_until = ((8 * (known - 1) + 1) * length / size.frames).round()
    names, cell = list(CASES), grid.height * grid.width
    video, audio = torch.zeros_like(patchy), torch.zeros_like(patchy_sound)
    for name, seen, known_sound in (("image", frame < 1, heard < 0), ("beginning", frame < known, heard < heard_until),
                                    ("sound", frame < 0, heard >= 0), ("picture", frame >= 0, heard < 0),
                                    ("frames", patchy, patchy_sound)):
        here = case == names.index(name)
        video, audio = video | (here & seen), audio | (here & known_sound)
    places = torch.rand(count, 1, cell, device=device) < torch.rand(count, 1, 1, device=device)
    places = places & (case == names.index("cells"))[..., None]
    tokens = (video[..., None] | places).flatten(1)
    return Given((~tokens).float(), (~audio).float())


_made: dict[torch.device, Tensor] = {}


def _borders(device: torch.device) -> Tensor:
    """Upper ends of the cases' parts of [0, 1], made once: recorded steps copy nothing from the host."""
    if device not in _made:
        _made[device] = torch.tensor(list(CASES.values())).cumsum(0)[:-1].to(device)
    return _made[device]
