"""Judge a clip: does the picture do what the prompt says, and does the sound fit the picture?"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tools.tiny_world.captions import Request
from tools.tiny_world.listen import Heard, listen
from tools.tiny_world.look import Seen, look
from tools.tiny_world.sound import frequency, note

SEMITONE = 12.0            # in an octave
_EDGE = 0.03               # heights: as near as this to two notes, both are right
BOUNCE_FRAMES = 2          # frames between a bounce and its click
_ENDS = 1.5                # frames at both ends in which a lowest point cannot be told from a cut


@dataclass(frozen=True)
class Verdict:
    """Judgement of one clip; True is right, None: the prompt or the clip leaves it open.

    Attributes:
        colour, shape, motion, size, background: against the prompt.
        bounces: every seen bounce has a click within two frames, and there is no click without one.
        pitch: share of the time (10 ms steps) at which the pitch is within a semitone of the height that is seen.
        pan: mean distance between the place heard and the x seen, as shares of the width.
    """

    colour: bool | None
    shape: bool | None
    motion: bool | None
    size: bool | None
    background: bool | None
    bounces: bool | None
    pitch: float | None
    pan: float | None
    seen: Seen = field(repr=False, compare=False)
    heard: Heard | None = field(repr=False, compare=False)

    @property
    def followed(self) -> bool:
        """Colour, shape and motion are all right."""
        return all(value is not False for value in (self.colour, self.shape, self.motion))


def _same(found: str | None, asked: str | None) -> bool | None:
    return None if asked is None else found == asked


def _bounces(seen: Seen, heard: Heard, frames: int, fps: float) -> bool | None:
    """Whether clicks and bounces go together; ends of the clip are left out."""
    limit, end = BOUNCE_FRAMES / fps, (frames - 1) / fps
    inside = seen.contacts[(seen.contacts > _ENDS / fps) & (seen.contacts < end - _ENDS / fps)]
    if not (seen.motion or "").startswith("bounce") or not len(inside):
        return None if not len(heard.clicks) else False
    clicks = heard.clicks
    if not len(clicks):
        return False
    near = np.abs(clicks[:, None] - seen.contacts[None]) <= limit
    edge = (clicks <= (_ENDS + BOUNCE_FRAMES) / fps) | (clicks >= end - (_ENDS + BOUNCE_FRAMES) / fps)
    answered = (np.abs(inside[:, None] - clicks[None]) <= limit).any(1)
    return bool(answered.all() and (near.any(1) | edge).all())


def _pitch(seen: Seen, heard: Heard, fps: float) -> float | None:
    """Share of the time at which the pitch fits the height, where there is both."""
    height = _at(seen.y, heard.times, fps)
    there = ~np.isnan(height)
    if not there.any():
        return None
    notes = np.stack([frequency(note(height[there] + shift)) for shift in (-_EDGE, 0, _EDGE)])
    with np.errstate(invalid="ignore"):
        apart = np.abs(SEMITONE * np.log2(heard.pitch[there] / notes)).min(0)
    return float((np.nan_to_num(apart, nan=99) <= 1).mean())


def _at(values: np.ndarray, times: np.ndarray, fps: float) -> np.ndarray:
    """A track at other times: linear between frames, NaN beyond its end and next to frames without the shape."""
    place = times * fps
    low = np.clip(np.floor(place).astype(int), 0, len(values) - 1)
    high = np.clip(low + 1, 0, len(values) - 1)
    result = values[low] + (values[high] - values[low]) * (place - low)
    return np.where(place > len(values) - 0.5, np.nan, result)


def _pan(seen: Seen, heard: Heard, fps: float, aspect: float) -> float | None:
    x = _at(seen.x, heard.times, fps) / aspect
    both = ~np.isnan(x) & ~np.isnan(heard.place)
    return float(np.abs(x[both] - heard.place[both]).mean()) if both.any() else None


def judge(frames: np.ndarray, fps: float, waveform: np.ndarray | None, rate: int, request: Request) -> Verdict:
    """Judge one clip against what its prompt asks for.

    Args:
        frames: (F, H, W, 3), 8-bit or floats in [0, 1].
        fps: frames a second.
        waveform: (2, samples) in [-1, 1], or None: the sound is not judged.
        rate: samples a second.
        request: of `captions.understand`.
    """
    seen = look(frames, fps)
    heard = None if waveform is None else listen(waveform, rate)
    ground = None
    if request.top is not None:
        ground = (seen.top, seen.bottom) == (request.top, request.bottom)
    sound: Mapping[str, bool | float | None] = {"bounces": None, "pitch": None, "pan": None}
    if heard is not None:
        sound = {"bounces": _bounces(seen, heard, len(frames), fps), "pitch": _pitch(seen, heard, fps),
                 "pan": _pan(seen, heard, fps, frames.shape[2] / frames.shape[1])}
    size = _same(seen.size, request.size) if request.motion not in ("grow", "shrink") else None
    return Verdict(_same(seen.colour, request.colour), _same(seen.shape, request.shape),
                   _same(seen.motion, request.motion), size, ground, **sound, seen=seen, heard=heard)


def summary(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Shares of right clips by name, over the clips where it applies; pitch over time, pan in shares of the width."""
    all_of = list(verdicts)
    result = {"clips": float(len(all_of)), "followed": float(np.mean([verdict.followed for verdict in all_of]))}
    for name in ("colour", "shape", "motion", "size", "background", "bounces", "pitch", "pan"):
        values = [getattr(verdict, name) for verdict in all_of if getattr(verdict, name) is not None]
        if values:
            result[name] = float(np.mean(values))
    return result
