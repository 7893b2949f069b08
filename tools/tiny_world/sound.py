"""Sound of scenes: a tone whose pitch is the shape's height and whose place is its x, and a click at each bounce.

Time is cut into frames of 10 ms, one frame of the mel spectrogram. Tones are whole multiples of 100 Hz and begin
every frame with the same phase, so the sample values of a frame depend on that frame's note, timbre and levels alone.
That is what a vocoder can learn exactly: it gets no phase, and what it makes from an unchanging mel has the period of
a frame.
"""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tools.tiny_world.scene import SHAPES, Scenes, contacts, track

FRAME = 0.01                            # seconds
LOWEST, STEPS = 6, 12                   # notes are 100 Hz * (LOWEST + 0 … STEPS), from the bottom to the top
TIMBRES: dict[str, tuple[float, ...]] = {  # levels of the harmonics 1, 2, 3 of each shape
    "ball": (1.0, 0.0, 0.0), "square": (0.8, 0.0, 0.6), "triangle": (0.8, 0.6, 0.0), "star": (0.65, 0.5, 0.55),
    "ring": (0.5, 0.85, 0.0)}
LEVEL = 0.3                             # of a tone
CLICK_BAND = (5800.0, 7400.0)           # Hz; above every harmonic of every tone
_CLICK = (6000.0, 6400.0, 6800.0, 7200.0)   # Hz
_CLICK_HIGH = (9000.0, 10000.0, 11000.0)    # Hz, in the 48 kHz sound only
_CLICK_FRAMES, _CLICK_DECAY, _CLICK_LEVEL = 5, 0.012, 0.09


def note(height: np.ndarray) -> np.ndarray:
    """Number of the note (0 … STEPS) of a centre at ``height`` in [0, 1]."""
    return np.clip(np.rint(STEPS * height), 0, STEPS).astype(np.int64)


def frequency(number: np.ndarray) -> np.ndarray:
    """Hz of a note."""
    return 100.0 * (LOWEST + number)


def pan(x: np.ndarray, aspect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels (left, right) of a place, equal in power: all left at x = 0, all right at x = aspect."""
    angle = np.clip(x / aspect, 0, 1) * (math.pi / 2)
    return np.cos(angle), np.sin(angle)


def tone_table(rate: int) -> Tensor:
    """One frame of every timbre and note: (shapes, notes, rate / 100) float32."""
    t = torch.arange(round(rate * FRAME), dtype=torch.float64) / rate
    hertz = torch.from_numpy(frequency(np.arange(STEPS + 1)))[:, None]
    table = [sum(level * torch.sin(2 * math.pi * (order + 1) * hertz * t)
                 for order, level in enumerate(TIMBRES[name])) for name in SHAPES]
    return (LEVEL * torch.stack(table)).float()


def click_table(rate: int) -> Tensor:
    """A click, frame by frame: (frames, rate / 100) float32. Above 24 kHz of rate it has its high part, too."""
    t = torch.arange(round(rate * FRAME * _CLICK_FRAMES), dtype=torch.float64) / rate
    parts = _CLICK if rate < 24000 else _CLICK + _CLICK_HIGH
    wave = sum(torch.sin(2 * math.pi * hertz * t) for hertz in parts)
    rise = (t / 0.001).clamp(max=1)
    return (_CLICK_LEVEL * wave * rise * torch.exp(-t / _CLICK_DECAY)).float().view(_CLICK_FRAMES, -1)


def click_frames(scenes: Scenes, count: int) -> np.ndarray:
    """(B, count) which frame of a click sounds (from 0), or -1: silence."""
    result = np.full((len(scenes), count + _CLICK_FRAMES), -1, dtype=np.int64)
    for index in range(len(scenes)):
        for second in contacts(scenes, index):
            start = round(second / FRAME)
            if start < count:
                result[index, start:start + _CLICK_FRAMES] = np.arange(_CLICK_FRAMES)
    return result[:, :count]


def render_sound(scenes: Scenes, count: int, rate: int, device: torch.device | str = "cpu") -> Tensor:
    """Stereo sound of scenes: (B, 2, count * rate / 100) float32 in [-1, 1].

    Args:
        scenes: what is heard.
        count: frames of 10 ms from time 0 on.
        rate: samples a second, a multiple of 100 (16000 or 48000).
        device: where it is computed.
    """
    places = track(scenes, (np.arange(count) + 0.5) * FRAME)
    levels = np.stack(pan(places.x, scenes.aspect[:, None]), axis=1) * places.visible[:, None]  # B 2 K
    notes = torch.from_numpy(note(places.y)).to(device)
    shapes = torch.from_numpy(scenes.shape.astype(np.int64)).to(device)[:, None]
    wave = tone_table(rate).to(device)[shapes, notes]  # B K samples
    clicks = torch.from_numpy(click_frames(scenes, count)).to(device)
    table = torch.cat((torch.zeros(1, round(rate * FRAME)), click_table(rate))).to(device)
    gains = torch.from_numpy(levels.astype(np.float32)).to(device)
    return (gains[..., None] * (wave + table[clicks + 1])[:, None]).flatten(2)
