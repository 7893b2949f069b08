"""Band-limited resampling of sound; torchaudio's default windowed-sinc algorithm from its formula (spec/05 §2).

torchaudio, where ComfyUI has it, needs a compiled extension that may not fit the user's torch.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SINC_WIDTH = 6         # zero crossings of the resampling sinc on each side
SINC_ROLLOFF = 0.99    # cut-off as a fraction of the lower Nyquist frequency
_MAX_BANK = 2**22      # elements of a bank of filters; rates that share no factor go sample by sample
_AT_ONCE = 2**14       # output samples of one piece of that way


def windowed_sinc(t: Tensor) -> Tensor:
    """Low-pass impulse response sinc(t) under a cos^2 (Hann) window that ends at `SINC_WIDTH`; t in zero crossings."""
    window = torch.cos(t.clamp(-SINC_WIDTH, SINC_WIDTH) * (math.pi / SINC_WIDTH / 2)) ** 2
    return torch.sinc(t) * window


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Samples after `resample`: ceil(samples * new_rate / rate)."""
    return -(-samples * new_rate // rate)


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """A sound at another sample rate, as long as before to the sample.

    Args:
        waveform: (..., samples) float32.
        rate: its sample rate in Hz, a whole number above 0.
        new_rate: the wanted rate in Hz.

    Returns:
        (..., `resampled_length`) float32.
    """
    if rate == new_rate:
        return waveform
    divisor = math.gcd(rate, new_rate)
    step, phases = rate // divisor, new_rate // divisor
    cutoff = min(step, phases) * SINC_ROLLOFF
    width = math.ceil(SINC_WIDTH * step / cutoff)
    length = resampled_length(waveform.shape[-1], rate, new_rate)
    rows = waveform.reshape(-1, waveform.shape[-1])
    if phases * (2 * width + step) > _MAX_BANK:
        made = _sample_by_sample(rows, step, phases, cutoff, width, length)
    else:
        made = _by_bank(rows, step, phases, cutoff, width)[:, :length]
    return made.reshape(*waveform.shape[:-1], length)


def _by_bank(rows: Tensor, step: int, phases: int, cutoff: float, width: int) -> Tensor:
    """Every block of ``step`` input samples gives ``phases`` outputs, one filter of the bank for each of them."""
    taps = torch.arange(-width, width + step, dtype=torch.float64, device="cpu") / step
    start = torch.arange(phases, dtype=torch.float64, device="cpu") / phases
    bank = windowed_sinc((taps - start[:, None]) * cutoff) * (cutoff / step)
    padded = functional.pad(rows[:, None], (width, width + step))
    blocks = functional.conv1d(padded, bank[:, None].to(rows), stride=step)  # (N, phases, blocks)
    return blocks.transpose(1, 2).flatten(1)


def _sample_by_sample(rows: Tensor, step: int, phases: int, cutoff: float, width: int, length: int) -> Tensor:
    """The same sum with a filter of its own for each output: for pairs of rates whose bank would be too large."""
    padded = functional.pad(rows, (width, width + 1))
    made = rows.new_empty(len(rows), length)
    offsets = torch.arange(2 * width + 1, device=rows.device)
    for first in range(0, length, _AT_ONCE):
        index = torch.arange(first, min(first + _AT_ONCE, length), device=rows.device)
        whole = index * step // phases                       # the input sample at or before each output
        part = (index * step - whole * phases).double() / phases
        taps = (offsets - width).double() - part[:, None]    # in input samples
        weights = windowed_sinc(taps * (cutoff / step)) * (cutoff / step)
        some = padded[:, whole[:, None] + offsets]
        made[:, first:first + len(index)] = (some * weights.to(rows)).sum(-1)
    return made
