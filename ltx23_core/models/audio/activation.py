"""Anti-aliased SnakeBeta, the activation of the vocoder (spec/05 §4).

The definition is: upsample by 2, apply SnakeBeta, downsample by 2, each resampling with its stored 12-tap filter.
Computed here in polyphase form: the even and the odd samples of the doubled signal are two channels of the
original length, so neither a transposed convolution nor an interleaving of samples is needed. Same sums, same taps.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAPS = 12    # of both filters
_REACH = 3    # samples that a phase of 6 taps reaches to each side, in the original rate


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b with a and b per channel, stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, phases, L) -> same."""
        alpha, beta = self.alpha.exp()[:, None, None], self.beta.exp()[:, None, None]
        return torch.addcmul(x, torch.sin(x * alpha).square_(), 1 / (beta + 1e-9))


class _Filter(nn.Module):
    """Holds one stored filter under its official name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.empty(1, 1, _TAPS))


def upsampling_phases(taps: Tensor) -> Tensor:
    """Filter of a x2 upsampling (12,) -> its even and odd phase as a correlation kernel (2, 1, 7)."""
    even, odd = 2 * taps.flip(0).view(-1, 2).T  # times 2: zeros inserted between samples halve the level
    return torch.stack([F.pad(even, (0, 1)), F.pad(odd, (1, 0))])[:, None]


def downsampling_phases(taps: Tensor) -> Tensor:
    """Filter of a x2 downsampling (12,) -> a correlation kernel over the two phases (1, 2, 7)."""
    odd, even = taps.view(-1, 2).T
    return torch.stack([F.pad(even, (1, 0)), F.pad(odd, (0, 1))])[None]


class AntiAliasedSnake(nn.Module):
    """SnakeBeta at twice the sample rate, so that the harmonics it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = _Filter()
        self.downsample = nn.ModuleDict({"lowpass": _Filter()})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> same. Every channel is filtered alone; the ends are continued by their last sample."""
        batch, channels, length = x.shape
        rows = F.pad(x, (_REACH, _REACH), mode="replicate").flatten(0, 1)[:, None]
        phases = F.conv1d(rows, upsampling_phases(self.upsample.filter.flatten()))
        phases = self.act(phases.view(batch, channels, 2, length)).view(batch * channels, 2, length)
        first = phases[:, :1, :1].expand(-1, 2, _REACH)   # the first sample of the doubled signal is an even one
        last = phases[:, 1:, -1:].expand(-1, 2, _REACH)   # and the last an odd one
        kernel = downsampling_phases(self.downsample["lowpass"].filter.flatten())
        return F.conv1d(torch.cat([first, phases, last], dim=2), kernel).view(batch, channels, length)
