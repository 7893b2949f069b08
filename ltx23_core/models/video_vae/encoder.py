"""Video encoder: pixels to normalised latents (spec/04 §3)."""
from __future__ import annotations

import logging

import torch
from einops import reduce
from torch import Tensor, nn

from ...config import VIDEO_SCALE, VideoVAEConfig
from ...errors import GeometryError
from .layers import (
    ChannelStatistics,
    PaddedConv3d,
    ResnetStack,
    activate,
    block_stride,
    pad_frames,
    patchify,
    space_to_depth,
)

log = logging.getLogger(__name__)
COLOURS = 3


class Downsample(nn.Module):
    """Strided step of the encoder: space-to-depth of a convolution, plus a skip of averaged channel groups.

    (B, C, F, H, W) -> (B, C', F/t, H/h, W/w). When t is 2, a copy of the first frame goes in front, so an odd
    number of frames F becomes (F + 1) / 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> None:
        """`stride` (t, h, w) over frames, height, width."""
        super().__init__()
        self.stride, self.out_channels = stride, out_channels
        cell = stride[0] * stride[1] * stride[2]
        self.conv = PaddedConv3d(in_channels, out_channels // cell)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a new tensor in x's dtype."""
        if self.stride[0] == 2:
            x = torch.cat([x[:, :, :1], x], dim=2)
        main = space_to_depth(self.conv(pad_frames(x)), self.stride)
        skip = reduce(space_to_depth(x, self.stride), "b (c group) f h w -> b c f h "
                                                      "w", "mean", c=self.out_channels)
        return main.add_(skip)


def crop_frames(pixels: Tensor) -> Tensor:
    """Cut pixels (B, 3, F, H, W) to 8k + 1 frames, with a warning, and check that they fit the latent grid.

    Raises:
        GeometryError: no frames, or height or width not a multiple of 32.
    """
    step, *factors = VIDEO_SCALE
    frames = pixels.shape[2]
    if frames < 1:
        raise GeometryError("the video has no frames", "at least 1 frame", "Give a video with frames.")
    for name, size, factor in zip(("height", "width"), pixels.shape[3:], factors, strict=True):
        if size < factor or size % factor:
            near = max(factor, round(size / factor) * factor)
            raise GeometryError(f"{name} is {size}", f"a multiple of {factor}", f"Resize to a {name} of {near}.")
    kept = (frames - 1) // step * step + 1
    if kept != frames:
        log.warning("%d frames do not fit the latent grid (%dk + 1): the last %d are left out",
                    frames, step, frames - kept)
    return pixels[:, :, :kept]


class VideoEncoder(nn.Module):
    """Causal encoder: a latent frame depends only on its own and earlier pixel frames."""

    def __init__(self, config: VideoVAEConfig) -> None:
        """Blocks in the order of ``config.encoder_blocks``; raises `OverlayError` for an unknown block."""
        super().__init__()
        self.patch, self.latent_channels = config.patch_size, config.latent_channels
        channels = config.encoder_base_channels
        self.conv_in = PaddedConv3d(COLOURS * config.patch_size ** 2, channels)
        self.down_blocks = nn.ModuleList()
        for name, value in config.encoder_blocks:
            if name == "res_x":
                self.down_blocks.append(ResnetStack(channels, value))
            else:
                self.down_blocks.append(Downsample(channels, channels * value, block_stride(name, "_res")))
                channels *= value
        self.conv_out = PaddedConv3d(channels, config.latent_channels + 1)  # means and one shared log-variance
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode a video or, with one frame, an image.

        Args:
            pixels: (B, 3, F, H, W) in [-1, 1], in the module's dtype; H and W multiples of 32. Trailing frames
                beyond 8k + 1 are left out with a warning.

        Returns:
            Normalised latent means (B, C, (F - 1)/8 + 1, H/32, W/32) in the same dtype.

        Raises:
            GeometryError: no frames, or a size that is not a multiple of 32.
        """
        x = patchify(crop_frames(pixels), self.patch)
        x = self.conv_in(pad_frames(x))
        for block in self.down_blocks:
            x = block(x)
        means = self.conv_out(activate(x))[:, :self.latent_channels]
        return self.per_channel_statistics.normalize(means)
