"""Building blocks of the audio VAE (spec/05 §3). Layout (B, channels, time, mel); causal in time."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_NORM_EPS = 1e-6  # of the audio VAE; the video VAE has another


def pixel_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over channels; no weights. (B, C, T, F) -> same."""
    return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + _NORM_EPS)


class CausalConv2d(nn.Module):
    """Same-size convolution that sees no later time row: all padding of the time axis stands in front."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.padding = (kernel // 2, kernel // 2, kernel - 1, 0)  # mel before, behind; time before, behind
        self.conv = nn.Conv2d(in_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, F) -> (B, out, T, F)."""
        return self.conv(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Two normalised convolutions around a shortcut, which is a 1x1 convolution where channels change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = CausalConv2d(in_channels, out_channels)
        self.conv2 = CausalConv2d(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = CausalConv2d(in_channels, out_channels, kernel=1)
        self.changes_channels = in_channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T, F) -> (B, out, T, F)."""
        h = self.conv1(F.silu(pixel_norm(x)))
        h = self.conv2(F.silu(pixel_norm(h)))
        if self.changes_channels:
            x = self.nin_shortcut(x)
        return x + h


class Downsample(nn.Module):
    """Halve both axes, rounding up in time: a strided convolution, causal in time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, F) -> (B, C, ceil(T / 2), F / 2)."""
        return self.conv(F.pad(x, (0, 1, 2, 0)))


class Upsample(nn.Module):
    """Double both axes by repetition and a causal convolution; the first row would repeat the past, so it goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, F) -> (B, C, 2T - 1, 2F)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))[:, :, 1:]


def res_blocks(in_channels: int, out_channels: int, count: int) -> nn.ModuleList:
    """``count`` blocks, of which the first changes the channels."""
    blocks = nn.ModuleList()
    for _ in range(count):
        blocks.append(ResBlock(in_channels, out_channels))
        in_channels = out_channels
    return blocks


class LatentStatistics(nn.Module):
    """Mean and deviation of every latent channel and mel bin, in token order (index: channel * bins + bin)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean-of-means", torch.empty(size))
        self.register_buffer("std-of-means", torch.empty(size))

    def _of(self, name: str, latent: Tensor) -> Tensor:
        """A statistic in the layout of a latent (B, C, T, F): (C, 1, F)."""
        return rearrange(self.get_buffer(name).to(latent), "(c bins) -> c 1 bins", c=latent.shape[1])

    def normalize(self, latent: Tensor) -> Tensor:
        """(B, C, T, F) -> same, about zero mean and unit deviation: what the transformer works on."""
        return (latent - self._of("mean-of-means", latent)) / self._of("std-of-means", latent)

    def denormalize(self, latent: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        return latent * self._of("std-of-means", latent) + self._of("mean-of-means", latent)
