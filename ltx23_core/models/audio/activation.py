"""Anti-aliased SnakeBeta, the activation of the vocoder (spec/05 §4).

Both resamplings are depthwise convolutions: one stored filter, every channel alone. Measured on an H200 with the
22B vocoder and 5 s of sound (102 ms, about half of it activations), three polyphase forms, without a transposed
convolution or interleaving, took 100 to 116 ms. Hence the plain form.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAPS = 12  # of both filters
_RATIO = 2


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b with a and b per channel, stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> same."""
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return torch.addcmul(x, torch.sin(x * alpha).square_(), 1 / (beta + 1e-9))


class _Filter(nn.Module):
    """Holds one stored filter under its official name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.empty(1, 1, _TAPS))

    def per_channel(self, channels: int) -> Tensor:
        """The filter for a depthwise convolution: (C, 1, taps), not copied."""
        return self.filter.expand(channels, -1, -1)


class Upsample2(_Filter):
    """Double the sample rate. The ends are continued by their last sample."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, 2L)."""
        channels = x.shape[1]
        reach = _TAPS // _RATIO - 1
        padded = F.pad(x, (reach, reach), mode="replicate")
        wide = F.conv_transpose1d(padded, self.per_channel(channels), stride=_RATIO, groups=channels)
        crop = reach * _RATIO + (_TAPS - _RATIO) // 2  # what was padded, and the filter's own delay
        return wide[..., crop:-crop] * _RATIO          # zeros between the samples halve the level


class Downsample2(nn.Module):
    """Halve the sample rate. The ends are continued by their last sample."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _Filter()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 2L) -> (B, C, L)."""
        channels = x.shape[1]
        padded = F.pad(x, (_TAPS // 2 - 1, _TAPS // 2), mode="replicate")
        return F.conv1d(padded, self.lowpass.per_channel(channels), stride=_RATIO, groups=channels)


class AntiAliasedSnake(nn.Module):
    """SnakeBeta at twice the sample rate, so that the harmonics it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = Upsample2()
        self.downsample = Downsample2()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> same."""
        return self.downsample(self.act(self.upsample(x)))
