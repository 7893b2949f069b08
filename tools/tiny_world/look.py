"""Read a video of the world back: background, colour, shape, track, motion, bounces. Numbers from pixels alone."""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from tools.tiny_world.render import cover
from tools.tiny_world.scene import BACKGROUNDS, COLOURS, RADII, ROUND, SHAPES

_STRONG = 0.25          # distance in RGB from the background that counts as the shape
_FAINT = 0.15           # covers below this are noise
_SMALLEST = 0.004       # area, in squared heights, below which nothing is there
_GRADED = 0.12          # distance in RGB of top and bottom from which a background is a gradient
_MOVED = 0.15           # heights
_GREW = 1.5             # ratio of radii
_TURNED = 0.8           # radians over the clip
_SYMMETRY = {"square": 4, "triangle": 3, "star": 5}


@dataclass(frozen=True)
class Seen:
    """What a video shows; colour, shape and motion are None where nothing was found.

    Attributes:
        x, y, radius: (F,) in heights, NaN in frames without the shape; y upwards.
        contacts: seconds of the lowest points of a bounce.
    """

    colour: str | None
    shape: str | None
    motion: str | None
    size: str | None
    top: str
    bottom: str
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    contacts: np.ndarray


def _nearest(value: np.ndarray, palette: dict[str, tuple[float, float, float]]) -> str:
    names = list(palette)
    return names[int(np.argmin(np.linalg.norm(np.array([palette[name] for name in names]) - value, axis=1)))]


def _background(frames: np.ndarray) -> np.ndarray:
    """(H, 3): a straight line through each row's median colour."""
    rows = np.median(frames, axis=(0, 2))
    place = np.linspace(-1, 1, len(rows))
    slope, middle = np.polyfit(place, rows, 1)
    return middle + place[:, None] * slope


def _ground_names(ground: np.ndarray) -> tuple[str, str]:
    top, bottom = ground[0], ground[-1]
    if np.linalg.norm(top - bottom) < _GRADED:
        name = _nearest(ground.mean(0), BACKGROUNDS)
        return name, name
    return _nearest(top, BACKGROUNDS), _nearest(bottom, BACKGROUNDS)


def _alpha(frames: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Share of each pixel that the shape covers (F, H, W), and its colour; None: there is nothing."""
    difference = frames - ground[:, None]
    strong = np.linalg.norm(difference, axis=-1) > _STRONG
    if strong.sum() < 20:
        return None
    colour = np.median(frames[strong], axis=0)
    towards = colour - ground[:, None]
    alpha = (difference * towards).sum(-1) / np.maximum((towards**2).sum(-1), 1e-3)
    alpha = np.clip(alpha, 0, 1)
    return np.where(alpha < _FAINT, 0, alpha), colour


def _centres(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre x, y and area of each frame, in heights; NaN where the area is too small."""
    height, width = alpha.shape[1:]
    area = alpha.sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / area / height
        y = 1 - (alpha.sum(2) @ (np.arange(height) + 0.5)) / area / height
    area = area / height**2
    there = area > _SMALLEST
    return np.where(there, x, np.nan), np.where(there, y, np.nan), np.where(there, area, np.nan)


def _phases(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
    """(F,) angle in radians at which a shape with ``order`` tips stands, modulo its symmetry; NaN where not seen."""
    height, width = alpha.shape[1:]
    dx = (np.arange(width) + 0.5) / height - x[:, None, None]
    dy = 1 - (np.arange(height)[:, None] + 0.5) / height - y[:, None, None]
    moment = (alpha * (dx + 1j * dy) ** order).sum((1, 2))
    return np.angle(moment) / order


@lru_cache(maxsize=8)
def _unit(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and the phase at which it stands upright."""
    half, size = torch.tensor(0.5).view(1, 1), 256
    alpha = cover(shape, half, half, torch.tensor(0.3).view(1, 1), torch.tensor(0.0).view(1, 1), size, size).numpy()
    phase = _phases(alpha[None], np.array([0.5]), np.array([0.5]), _SYMMETRY[shape])[0] if shape in _SYMMETRY else 0.0
    return float(alpha.sum() / size**2 / 0.09), float(phase)


def _shape(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, area: np.ndarray) -> str:
    """The shape that, drawn at the place and with the area of the largest frames, covers what is covered."""
    height, width = alpha.shape[1:]
    best = np.argsort(np.nan_to_num(area))[-3:]
    errors = {}
    for name in SHAPES:
        unit, upright = _unit(name)
        angle = np.zeros(len(best))
        if name in _SYMMETRY:
            angle = _phases(alpha[best], x[best], y[best], _SYMMETRY[name]) - upright
        values = [torch.from_numpy(v.astype(np.float32)).view(-1, 1, 1)
                  for v in (x[best], y[best], np.sqrt(area[best] / unit), angle)]
        drawn = cover(name, *values, width, height).numpy()
        errors[name] = float(((drawn - alpha[best]) ** 2).sum())
    return min(errors, key=errors.__getitem__)


def _contacts(y: np.ndarray, fps: float) -> np.ndarray:
    """Seconds of the sharp lowest points of a track."""
    low, high = np.nanmin(y), np.nanmax(y)
    found = []
    for i in range(1, len(y) - 1):
        left, middle, right = y[i - 1:i + 2]
        if not (middle <= left and middle < right and middle < low + 0.35 * (high - low)):
            continue
        slope = max(left, right) - middle
        found.append((i + np.clip((left - right) / (2 * max(slope, 1e-6)), -0.5, 0.5)) / fps)
    return np.array(found)


def _turned(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, shape: str) -> float:
    """Radians that the shape turns in all."""
    if shape in ROUND:
        return 0.0
    there = ~np.isnan(x)
    order = _SYMMETRY[shape]
    phases = _phases(alpha[there], x[there], y[there], order) * order
    return float(abs(np.unwrap(phases)[-1] - phases[0]) / order) if len(phases) > 1 else 0.0


def _motion(alpha: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray, shape: str) -> str:
    there = np.flatnonzero(~np.isnan(x))
    if there[0] >= 3 and there[-1] >= len(x) - 2:
        return "appear"
    first, last = there[:2], there[-2:]
    ratio = radius[last].mean() / radius[first].mean()
    if ratio > _GREW or ratio < 1 / _GREW:
        return "grow" if ratio > 1 else "shrink"
    dx, dy = x[last].mean() - x[first].mean(), y[last].mean() - y[first].mean()
    way = np.abs(np.diff(y[there])).sum()
    side = "right" if dx > 0 else "left"
    if way > 0.35 and way > 1.6 * abs(dy):
        return f"bounce_{side}" if abs(dx) > _MOVED else "bounce"
    if max(abs(dx), abs(dy)) > _MOVED:
        return side if abs(dx) > abs(dy) else ("up" if dy > 0 else "down")
    return "spin" if _turned(alpha, x, y, shape) > _TURNED else "still"


def _size(radius: np.ndarray) -> str:
    middle = float(np.nanmedian(radius))
    return min(RADII, key=lambda name: abs(sum(RADII[name]) / 2 - middle))


def look(frames: np.ndarray, fps: float) -> Seen:
    """Read a video.

    Args:
        frames: (F, H, W, 3) in [0, 1], floats, or 8-bit numbers.
        fps: frames a second.
    """
    frames = frames.astype(np.float32) / (255 if frames.dtype == np.uint8 else 1)
    ground = _background(frames)
    top, bottom = _ground_names(ground)
    nothing = np.full(len(frames), np.nan)
    found = _alpha(frames, ground)
    x = nothing if found is None else _centres(found[0])[0]
    if found is None or np.isnan(x).all():
        return Seen(None, None, None, None, top, bottom, nothing, nothing, nothing, np.zeros(0))
    alpha, colour = found
    x, y, area = _centres(alpha)
    shape = _shape(alpha, x, y, area)
    radius = np.sqrt(area / _unit(shape)[0])
    motion = _motion(alpha, x, y, radius, shape)
    contacts = _contacts(y, fps) if motion.startswith("bounce") else np.zeros(0)
    return Seen(_nearest(colour, COLOURS), shape, motion, _size(radius), top, bottom, x, y, radius, contacts)
