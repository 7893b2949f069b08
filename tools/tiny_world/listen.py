"""Read the world's sound back: pitch, place and clicks over time. Numbers from samples alone."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.tiny_world.sound import CLICK_BAND, LOWEST, STEPS

_HOP = 0.01                 # seconds
_WINDOW = 0.04              # seconds, of the pitch
_QUIET = 0.01               # amplitude of a partial below which there is no tone
_LOWEST_SHARE = 0.1         # power of the fundamental, as a share of the strongest partial's
_CLICK_WINDOW, _CLICK_HOP = 0.01, 0.0025    # seconds
_CLICK_LEVEL, _CLICK_SHARE, _CLICK_APART = 0.01, 0.2, 0.12   # amplitude, share of the loudest, seconds


@dataclass(frozen=True)
class Heard:
    """What a sound says, every 10 ms.

    Attributes:
        times: (K,) seconds.
        pitch: (K,) Hz of the fundamental, NaN in silence.
        place: (K,) 0 (all left) … 1 (all right), NaN in silence.
        clicks: seconds at which clicks begin.
    """

    times: np.ndarray
    pitch: np.ndarray
    place: np.ndarray
    clicks: np.ndarray


def _spectra(waveform: np.ndarray, rate: int, window: float, hop: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes (2, K, size / 2 + 1) of Hann windows centred at hops, and their times (K,)."""
    length, step = round(window * rate), round(hop * rate)
    padded = np.pad(waveform, ((0, 0), (length // 2, length // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, ::step]
    taper = np.hanning(length)
    return np.abs(np.fft.rfft(frames * taper, size)) * 2 / taper.sum(), np.arange(frames.shape[1]) * hop


def _pitch(power: np.ndarray, hertz: np.ndarray) -> tuple[float, float]:
    """Frequency of the lowest strong peak, and its power."""
    low, high = np.searchsorted(hertz, (100 * LOWEST - 80, 100 * (LOWEST + STEPS) + 80))
    band = power[low:high]
    peaks = np.flatnonzero((band[1:-1] >= band[:-2]) & (band[1:-1] > band[2:])) + 1
    strong = peaks[band[peaks] >= _LOWEST_SHARE * band.max()] if len(peaks) else peaks
    if not len(strong):
        return np.nan, 0.0
    at = strong[0]
    left, middle, right = np.log(band[at - 1:at + 2] + 1e-20)
    shift = 0.5 * (left - right) / min(left - 2 * middle + right, -1e-9)
    return float(hertz[low + at] + np.clip(shift, -1, 1) * (hertz[1] - hertz[0])), float(band[at])


def _clicks(waveform: np.ndarray, rate: int) -> np.ndarray:
    size = 1 << int(np.ceil(np.log2(_CLICK_WINDOW * rate)))
    spectra, times = _spectra(waveform, rate, _CLICK_WINDOW, _CLICK_HOP, size)
    hertz = np.fft.rfftfreq(size, 1 / rate)
    chosen = (hertz >= CLICK_BAND[0]) & (hertz <= CLICK_BAND[1])
    level = np.sqrt((spectra[..., chosen] ** 2).sum((0, 2)) / chosen.sum())
    found: list[float] = []
    floor = max(_CLICK_LEVEL, _CLICK_SHARE * level.max())
    for i in range(len(level)):
        window = level[max(0, i - 16):i + 17]
        if level[i] < floor or level[i] < window.max():
            continue
        before = level[max(0, i - 12):i + 1]
        start = i - len(before) + 1 + int(np.argmax(before >= 0.5 * level[i]))
        if not found or times[start] - found[-1] > _CLICK_APART:
            found.append(float(times[start]))
    return np.array(found)


def listen(waveform: np.ndarray, rate: int) -> Heard:
    """Read a sound.

    Args:
        waveform: (2, samples) in [-1, 1].
        rate: samples a second.
    """
    size = 1 << int(np.ceil(np.log2(_WINDOW * rate)) + 1)
    spectra, times = _spectra(waveform, rate, _WINDOW, _HOP, size)
    hertz = np.fft.rfftfreq(size, 1 / rate)
    pitch, place = np.full(len(times), np.nan), np.full(len(times), np.nan)
    tones = (hertz > 100 * LOWEST - 80) & (hertz < 5500)
    levels = np.sqrt((spectra[..., tones] ** 2).sum(-1))
    for k in range(len(times)):
        found, power = _pitch((spectra[:, k] ** 2).sum(0), hertz)
        if power > _QUIET**2:
            pitch[k] = found
            place[k] = np.arctan2(levels[1, k], levels[0, k]) / (np.pi / 2)
    return Heard(times, pitch, place, _clicks(waveform, rate))
