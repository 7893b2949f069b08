"""Sound as the pipeline hands it on, and from any layout to stereo."""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MediaError

MAX_CHANNELS = 64
_HALF_POWER = math.sqrt(0.5)
# What a channel adds to (left, right), ITU-R BS.775-4 annex 4: the centre and the surrounds at -3 dB, LFE left out.
LEFT, RIGHT = (1.0, 0.0), (0.0, 1.0)
CENTRE, NOTHING = (_HALF_POWER, _HALF_POWER), (0.0, 0.0)
SIDE_LEFT, SIDE_RIGHT, BACK = (_HALF_POWER, 0.0), (0.0, _HALF_POWER), (0.5, 0.5)
# A waveform does not say which channel is which: by their number, in the order of files. Three may be 2.1 too, but
# taking a low-frequency channel for speech costs less than the reverse.
LAYOUTS = {
    1: (LEFT,),
    2: (LEFT, RIGHT),
    3: (LEFT, RIGHT, CENTRE),
    4: (LEFT, RIGHT, CENTRE, BACK),
    5: (LEFT, RIGHT, CENTRE, SIDE_LEFT, SIDE_RIGHT),
    6: (LEFT, RIGHT, CENTRE, NOTHING, SIDE_LEFT, SIDE_RIGHT),
    7: (LEFT, RIGHT, CENTRE, NOTHING, BACK, SIDE_LEFT, SIDE_RIGHT),
    8: (LEFT, RIGHT, CENTRE, NOTHING, SIDE_LEFT, SIDE_RIGHT, SIDE_LEFT, SIDE_RIGHT),
}


@dataclass(frozen=True)
class Audio:
    """A waveform.

    Attributes:
        waveform: (B, 2, samples) float32 on the CPU, in [-1, 1].
        sample_rate: samples a second and channel, in Hz.
    """

    waveform: torch.Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.waveform.shape[-1] / self.sample_rate


# A sound, or what gives it from the first frames of the picture on, or none.
AudioSource = Audio | Callable[[], Audio] | None


def as_stereo(waveform: Tensor) -> Tensor:
    """A sound of any layout in two channels: stereo as it is, mono in both, more mixed down by ITU-R BS.775.

    Mixed sound that would leave [-1, 1] is made quieter as a whole, so that nothing is clipped.

    Args:
        waveform: (B, channels, samples), 1 to 64 channels in the order of FFmpeg and WAV (5.1: left, right, centre,
            low frequencies, left and right surround).

    Returns:
        (B, 2, samples) in the dtype of the waveform, of mono a view.

    Raises:
        MediaError: another number of dimensions or channels.
    """
    _check_layout(waveform)
    channels = waveform.shape[1]
    if channels <= 2:
        return waveform.expand(-1, 2, -1)
    mixed = torch.tensor(_gains(channels)).T.to(waveform) @ waveform
    peak = 1.0
    if mixed.numel():
        peak = mixed.abs().amax().clamp(min=1.0)
    return mixed / peak


def _check_layout(waveform: Tensor) -> None:
    if waveform.ndim != 3 or not 1 <= waveform.shape[1] <= MAX_CHANNELS:
        raise MediaError(f"the waveform has shape {tuple(waveform.shape)}",
                         f"(batch, channels, samples), 1 to {MAX_CHANNELS} channels",
                         "Give one waveform with its channels second.")


def _gains(channels: int) -> list[tuple[float, float]]:
    """(left, right) of each channel; beyond eight they come as pairs of more speakers (heights), at -3 dB."""
    known = LAYOUTS[min(channels, 8)]
    more = itertools.islice(itertools.cycle((SIDE_LEFT, SIDE_RIGHT)), channels - len(known))
    return [*known, *more]


def as_float(waveform: Tensor) -> Tensor:
    """Samples of any number format as float32 in [-1, 1]: integers are divided by their full scale."""
    if waveform.is_floating_point():
        return waveform.float()
    if waveform.dtype == torch.bool or waveform.is_complex():
        raise MediaError(f"the sound has samples of {waveform.dtype}", "floats in [-1, 1] or integers",
                         "Convert it to float32.")
    scale = float(torch.iinfo(waveform.dtype).max) + 1
    if waveform.dtype == torch.uint8:  # unsigned samples have their zero in the middle
        return waveform.float() / 128 - 1
    return (waveform.double() / scale).float()


def check_sound(audio: Audio, what: str = "the source sound") -> None:
    """Raise `MediaError` for what is not one waveform of finite samples."""
    _check_layout(audio.waveform)
    if audio.waveform.shape[0] != 1 or not audio.waveform.shape[2] or not 0 < audio.sample_rate < math.inf:
        raise MediaError(f"{what} has shape {tuple(audio.waveform.shape)} at {audio.sample_rate} Hz",
                         "(1, channels, samples), at least one sample, at a rate above "
                         "0", "Give one waveform.")
    if not is_finite(audio.waveform):
        raise MediaError(f"{what} holds NaN or infinity", "finite samples in [-1, 1]",
                         "Make it again; a step before this one went wrong.")


def is_finite(values: Tensor) -> bool:
    """Whether a tensor of any size has neither NaN nor infinity; holds no second copy of it."""
    if not values.numel() or not values.is_floating_point():
        return True
    low, high = torch.aminmax(values)
    return math.isfinite(float(low)) and math.isfinite(float(high))
