"""Frame rates: the exact fraction behind the number that a user types or a file states."""
from __future__ import annotations

import math
from fractions import Fraction

from ..errors import MediaError

# 23.976 means 24000/1001, not 2997/125; as do 23.98 and what a file states to a few digits.
NTSC_RATES = (12, 15, 24, 30, 48, 60, 72, 90, 96, 120, 144, 240)
_CLOSE = 5e-3
_MAX_DENOMINATOR = 1001


def frame_rate(fps: float | Fraction) -> Fraction:
    """The exact rate behind a decimal number: 24 -> 24, 23.976 -> 24000/1001, 12.5 -> 25/2.

    Raises:
        MediaError: no finite number above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"the frame rate is {fps}", "a positive number of frames a second", "Use 24.")
    for rate in NTSC_RATES:
        if abs(fps - rate * 1000 / 1001) < _CLOSE:
            return Fraction(rate * 1000, 1001)
    return Fraction(fps).limit_denominator(_MAX_DENOMINATOR) or Fraction(fps)


def resampled_count(frames: int, source: float, fps: float) -> int:
    """Frames of a clip at another rate: the nearest whole number to its duration times ``fps``, at least 1."""
    exact = frames * frame_rate(fps) / frame_rate(source)
    if not frames:
        return 0
    return max(1, math.ceil(exact - Fraction(1, 2)))


def nearest_frames(frames: int, source: float, fps: float) -> tuple[int, ...]:
    """The source frame of each frame at another rate; nearest in time, the earlier one if between two."""
    step = frame_rate(source) / frame_rate(fps)
    if step == 1:
        return tuple(range(frames))
    half = Fraction(1, 2)
    return tuple(min(frames - 1, math.ceil(index * step - half))
                 for index in range(resampled_count(frames, source, fps)))
