"""Scenes of the world: one coloured shape that moves over a plain or graded background.

Lengths are in heights of the frame, y grows upwards, time is in seconds. So a scene looks the same at every size.
A `Scenes` holds many scenes as arrays, one entry a scene; everything is decided by the seed of its generator.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10), "orange": (1.00, 0.52, 0.05), "yellow": (0.98, 0.90, 0.15), "green": (0.10, 0.75, 0.20),
    "cyan": (0.10, 0.85, 0.90), "blue": (0.15, 0.30, 0.95), "purple": (0.62, 0.15, 0.80), "white": (0.97, 0.97, 0.97)}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.04, 0.04, 0.05), "grey": (0.45, 0.45, 0.47), "white": (0.90, 0.90, 0.88), "blue": (0.16, 0.22, 0.48),
    "green": (0.13, 0.36, 0.22), "purple": (0.32, 0.18, 0.42), "brown": (0.36, 0.24, 0.14)}
SHAPES = ("ball", "square", "triangle", "star", "ring")
MOTIONS = ("right", "left", "up", "down", "bounce_right", "bounce_left", "bounce", "grow", "shrink", "spin", "appear",
           "still")
SIZES = ("small", "medium", "big")
RADII = {"small": (0.12, 0.14), "medium": (0.165, 0.185), "big": (0.22, 0.24)}  # heights; half the width of a ball
ROUND = ("ball", "ring")           # cannot be seen to spin
MIN_CONTRAST = 0.40                # of shape and background, Euclidean in RGB
BOUNCES = ("bounce_right", "bounce_left", "bounce")
_FREQUENT = {"bounce_right": 2.0, "bounce_left": 2.0, "bounce": 1.5, "right": 1.3, "left": 1.3}
HELD_OUT_EVERY = 16                # one in so many triples of colour, shape and motion is never trained on


@dataclass(frozen=True)
class Scenes:
    """Arrays of length B. Indices count in `SHAPES`, `COLOURS`, `BACKGROUNDS`, `MOTIONS`, `SIZES`.

    Attributes:
        shape, colour, top, bottom, motion, size: what it is; top and bottom are the background's colours.
        radius, radius_end: heights, at the first and the last moment.
        x, x_end, y, y_end: the centre at the first and the last moment; y is the floor where it bounces.
        height, period, phase: of a bounce: rise of the centre, seconds between contacts, time of one contact.
        angle_rate: radians a second.
        appears: second from which it can be seen and heard.
        aspect: width over height of the frame.
        seconds: length of the clip.
    """

    shape: np.ndarray
    colour: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    motion: np.ndarray
    size: np.ndarray
    radius: np.ndarray
    radius_end: np.ndarray
    x: np.ndarray
    x_end: np.ndarray
    y: np.ndarray
    y_end: np.ndarray
    height: np.ndarray
    period: np.ndarray
    phase: np.ndarray
    angle_rate: np.ndarray
    appears: np.ndarray
    aspect: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: slice | np.ndarray) -> Scenes:
        """Some of the scenes."""
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class Track:
    """Where the shape is at given times: (B, N) each; ``visible`` is 0 or 1."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    visible: np.ndarray


def is_motion(scenes: Scenes, *names: str) -> np.ndarray:
    """(B,) whether each scene's motion is one of ``names``."""
    return np.isin(scenes.motion, [MOTIONS.index(name) for name in names])


def track(scenes: Scenes, times: np.ndarray) -> Track:
    """Place every scene's shape at ``times``, (N,) seconds."""
    t = np.asarray(times, dtype=np.float64)[None]

    def column(values: np.ndarray) -> np.ndarray:
        return values[:, None]

    part = np.clip(t / column(scenes.seconds), 0, 1)
    x = column(scenes.x) + column(scenes.x_end - scenes.x) * part
    y = column(scenes.y) + column(scenes.y_end - scenes.y) * part
    cycle = np.mod((t - column(scenes.phase)) / column(scenes.period), 1.0)
    y = y + column(scenes.height) * 4 * cycle * (1 - cycle)
    radius = column(scenes.radius) + column(scenes.radius_end - scenes.radius) * part
    return Track(x, y, radius, column(scenes.angle_rate) * t, (t >= column(scenes.appears)).astype(np.float64))


def contacts(scenes: Scenes, index: int) -> np.ndarray:
    """Seconds at which one scene's shape touches the floor, in order; empty where it does not bounce."""
    if scenes.height[index] == 0:
        return np.zeros(0)
    count = int(np.ceil(scenes.seconds[index] / scenes.period[index])) + 1
    times = scenes.phase[index] + scenes.period[index] * np.arange(count)
    return times[times < scenes.seconds[index]]


def frame_times(frames: int, fps: float) -> np.ndarray:
    """(F,) seconds at which frames are seen."""
    return np.arange(frames) / fps


def is_held_out(colour: np.ndarray, shape: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """(B,) whether a triple belongs to those that training never sees."""
    number = (colour * len(SHAPES) + shape) * len(MOTIONS) + motion
    return (number * 2654435761 % 2**32) // 2**16 % HELD_OUT_EVERY == 0


def _contrast(colour: np.ndarray, background: np.ndarray) -> np.ndarray:
    shades, grounds = np.array(list(COLOURS.values())), np.array(list(BACKGROUNDS.values()))
    same = np.array([[name == other for other in BACKGROUNDS] for name in COLOURS])
    distance = np.linalg.norm(shades[:, None] - grounds[None], axis=-1)
    return np.where(same, 0, distance)[colour, background]


def _identity(rng: np.random.Generator, count: int, held_out: bool | None) -> list[np.ndarray]:
    """Shape, colour, top, bottom, motion: drawn until all of ``count`` are allowed."""
    weights = np.array([_FREQUENT.get(name, 1.0) for name in MOTIONS])
    drawn = count * 4 if held_out is not True else count * 80
    shape, colour = rng.integers(len(SHAPES), size=drawn), rng.integers(len(COLOURS), size=drawn)
    motion = rng.choice(len(MOTIONS), size=drawn, p=weights / weights.sum())
    top, other = rng.integers(len(BACKGROUNDS), size=(2, drawn))
    bottom = np.where(rng.random(drawn) < 0.3, other, top)
    good = (_contrast(colour, top) >= MIN_CONTRAST) & (_contrast(colour, bottom) >= MIN_CONTRAST)
    turning = motion == MOTIONS.index("spin")
    good &= ~(turning & np.isin(shape, [SHAPES.index(name) for name in ROUND]))
    if held_out is not None:
        good &= is_held_out(colour, shape, motion) == held_out
    chosen = np.flatnonzero(good)[:count]
    if len(chosen) < count:
        more = _identity(rng, count - len(chosen), held_out)
        return [np.concatenate([old[chosen], new])
                for old, new in zip((shape, colour, top, bottom, motion), more, strict=True)]
    return [values[chosen] for values in (shape, colour, top, bottom, motion)]


def _way(rng: np.random.Generator, room: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end in [0, room]: most of the room upwards where moving, else one place."""
    share = rng.uniform(0.6, 1.0, len(room))
    start = rng.random(len(room)) * (1 - share) * room
    place = rng.random(len(room)) * room
    return np.where(moving, start, place), np.where(moving, start + share * room, place)


def sample_scenes(rng: np.random.Generator, count: int, aspect: float, seconds: float,
                  held_out: bool | None = False) -> Scenes:
    """Random scenes.

    Args:
        rng: decides everything.
        count: scenes.
        aspect: width over height of the frame.
        seconds: length of the clip.
        held_out: False: only what training may see; True: only held-out triples; None: any.
    """
    shape, colour, top, bottom, motion = _identity(rng, count, held_out)
    return place(rng, shape, colour, top, bottom, motion, rng.integers(len(SIZES), size=count), aspect, seconds)


def place(rng: np.random.Generator, shape: np.ndarray, colour: np.ndarray, top: np.ndarray, bottom: np.ndarray,
          motion: np.ndarray, size: np.ndarray, aspect: float, seconds: float) -> Scenes:
    """Draw what a prompt leaves open (places, speeds, times) for scenes whose kind is given."""
    count = len(shape)

    def of(*names: str) -> np.ndarray:
        return np.isin(motion, [MOTIONS.index(name) for name in names])

    bounds = np.array([RADII[name] for name in SIZES])[size]
    radius = bounds[:, 0] + rng.random(count) * (bounds[:, 1] - bounds[:, 0])
    large, little = rng.uniform(0.22, 0.26, count), rng.uniform(0.07, 0.09, count)
    first = np.where(of("grow"), little, np.where(of("shrink"), large, radius))
    last = np.where(of("grow"), large, np.where(of("shrink"), little, radius))
    margin = 1.2 * np.maximum(first, last)  # the tips of a star reach 1.2 radii
    sideways = of("right", "left", "bounce_right", "bounce_left")
    x, x_end = _way(rng, aspect - 2 * margin, sideways)
    y, y_end = _way(rng, 1 - 2 * margin, of("up", "down"))
    back, down, bouncing = of("left", "bounce_left"), of("down"), of(*BOUNCES)
    x, x_end = np.where(back, aspect - 2 * margin - x, x), np.where(back, aspect - 2 * margin - x_end, x_end)
    y, y_end = np.where(down, 1 - 2 * margin - y, y), np.where(down, 1 - 2 * margin - y_end, y_end)
    y, y_end = np.where(bouncing, 0, y), np.where(bouncing, 0, y_end)
    period = rng.uniform(0.42, 0.58, count)
    return Scenes(
        shape, colour, top, bottom, motion, size, first, last, margin + x, margin + x_end, margin + y, margin + y_end,
        height=np.where(bouncing, np.minimum(0.5, 1 - 2 * margin) * rng.uniform(0.85, 1.0, count), 0),
        period=period, phase=period * rng.uniform(0.3, 0.9, count),
        angle_rate=np.where(of("spin"), rng.choice([-1, 1], count) * rng.uniform(2.5, 4.5, count), 0),
        appears=np.where(of("appear"), seconds * rng.uniform(0.3, 0.6, count), 0),
        aspect=np.full(count, aspect), seconds=np.full(count, seconds))
