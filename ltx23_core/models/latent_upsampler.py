"""Latent upsamplers: a video latent at a larger size or a higher frame rate (spec/06)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import UpsamplerConfig
from ..errors import OverlayError

_GROUPS = 32
_BLUR = 5  # width of the stored binomial filter
_RATIONAL = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}  # scale -> up, down


class ResBlock(nn.Module):
    """Two convolutions with group norm; the second activation comes after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> same."""
        h = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(h)) + x)


def _res_blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(channels) for _ in range(count)))


class _Blur(nn.Module):
    """Depthwise binomial blur with a stride: the stored kernel, the same for every channel."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("kernel", torch.empty(1, 1, _BLUR, _BLUR))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); stride 1 changes nothing."""
        if self.stride == 1:
            return x
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.stride, padding=_BLUR // 2, groups=channels)


class RationalResampler(nn.Module):
    """Spatial scale up / down: pixel shuffle by ``up``, then blur and keep one pixel in ``down``."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        if scale not in _RATIONAL:
            raise OverlayError(f"the upscaler's spatial_scale is {scale}",
                               f"one of {', '.join(map(str, _RATIONAL))}", "Use an official LTX-2.3 upscaler "
                                                                           "file.")
        self.up, down = _RATIONAL[scale]
        self.conv = nn.Conv2d(channels, self.up**2 * channels, 3, padding=1)
        self.blur_down = _Blur(down)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H * scale, W * scale)."""
        return self.blur_down(F.pixel_shuffle(self.conv(x), self.up))


class _Shuffle3d(nn.Module):
    """Move channel factors (C, time, height, width) to their axes."""

    def __init__(self, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space

    def forward(self, x: Tensor) -> Tensor:
        """(B, C * t * s * s, F, H, W) -> (B, C, F * t, H * s, W * s)."""
        sizes = {"t": self.time, "h": self.space, "w": self.space}
        return rearrange(x, "b (c t h w) F H W -> b c (F t) (H h) (W w)", **sizes)


def _resampler(config: UpsamplerConfig) -> nn.Module:
    """The step between the two halves of the network, for frames (N, C, H, W) or volumes (B, C, F, H, W)."""
    channels = config.mid_channels
    if config.temporal:
        space = 2 if config.spatial else 1
        return nn.Sequential(nn.Conv3d(channels, 2 * space**2 * channels, 3, padding=1), _Shuffle3d(2, space))
    if not config.spatial:
        raise OverlayError("the upscaler enlarges neither space nor "
                           "time", "spatial_upsample or temporal_upsample",
                           "Use an official LTX-2.3 upscaler file.")
    if config.rational:
        return RationalResampler(channels, config.spatial_scale)
    return nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))


class LatentUpsampler(nn.Module):
    """The raw network, on un-normalised latents. Not causal; its norms run over the whole volume, so no tiling."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        channels = config.mid_channels
        self.temporal = config.temporal
        self.initial_conv = nn.Conv3d(config.in_channels, channels, 3, padding=1)
        self.initial_norm = nn.GroupNorm(_GROUPS, channels)
        self.res_blocks = _res_blocks(channels, config.blocks_per_stage)
        self.upsampler = _resampler(config)
        self.post_upsample_res_blocks = _res_blocks(channels, config.blocks_per_stage)
        self.final_conv = nn.Conv3d(channels, config.in_channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Enlarge an un-normalised latent in the parameters' dtype.

        Args:
            latent: (B, C, F, H, W).

        Returns:
            (B, C, F, H * scale, W * scale); temporal: (B, C, 2F - 1, H, W), as the first latent frame is one frame.
        """
        h = self.res_blocks(F.silu(self.initial_norm(self.initial_conv(latent))))
        if self.temporal:
            h = self.upsampler(h)[:, :, 1:]
        else:
            frames = self.upsampler(rearrange(h, "b c f h w -> (b f) c h w"))
            h = rearrange(frames, "(b f) c h w -> b c f h w", b=len(h))
        return self.final_conv(self.post_upsample_res_blocks(h))


def upsample(module: nn.Module, latent: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Enlarge a normalised video latent (spec/06): un-normalise, run the network, normalise.

    Args:
        module: a `LatentUpsampler` on the latent's device and in its dtype.
        latent: (B, C, F, H, W) as the transformer makes it.
        mean: (C,) ``mean-of-means`` of the video VAE.
        std: (C,) ``std-of-means`` of the video VAE.

    Returns:
        The larger latent, normalised, same dtype.
    """
    # A window of a longer clip is a view, over which convolutions round otherwise.
    latent = latent.contiguous()
    mean = rearrange(mean.to(latent), "c -> c 1 1 1")
    std = rearrange(std.to(latent), "c -> c 1 1 1")
    return (module(latent * std + mean) - mean) / std
