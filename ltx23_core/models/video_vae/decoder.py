"""Video decoder: normalised latents to pixels (spec/04 §4)."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ...config import VideoVAEConfig
from .layers import (
    ChannelStatistics,
    PaddedConv3d,
    ResnetStack,
    activate,
    block_stride,
    depth_to_space,
    pad_frames,
    unpatchify,
)

COLOURS = 3


class Stage(NamedTuple):
    """One entry of the decoder in execution order: residual blocks (no stride) or an up-sampling step."""

    layers: int
    in_channels: int
    out_channels: int
    stride: tuple[int, int, int] | None


def stages(config: VideoVAEConfig) -> list[Stage]:
    """The decoder's blocks from latent to pixels; raises `OverlayError` for an unknown block."""
    channels = config.decoder_base_channels
    for name, value in config.decoder_blocks:
        if name != "res_x":
            channels *= value
    result = []
    for name, value in reversed(config.decoder_blocks):  # the config lists them from the pixel side
        if name == "res_x":
            result.append(Stage(value, channels, channels, None))
        else:
            result.append(Stage(1, channels, channels // value, block_stride(name, "")))
            channels //= value
    return result


class Upsample(nn.Module):
    """Convolution to t*h*w times the output channels, then depth-to-space.

    (B, C, F, H, W) -> (B, C', F*t, H*h, W*w). When t is 2 the first output frame is dropped: F becomes 2F - 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> None:
        """`stride` (t, h, w) over frames, height, width."""
        super().__init__()
        self.stride = stride
        self.conv = PaddedConv3d(in_channels, out_channels * stride[0] * stride[1] * stride[2])

    def forward(self, x: Tensor) -> Tensor:
        """Returns a new tensor in x's dtype."""
        x = depth_to_space(self.conv(pad_frames(x, causal=False)), self.stride)
        if self.stride[0] == 2:
            return x[:, :, 1:]  # 2F frames become 2F - 1
        return x


class VideoDecoder(nn.Module):
    """Non-causal, deterministic decoder. Its peak of memory: `tiling.decode_activation_bytes`."""

    def __init__(self, config: VideoVAEConfig) -> None:
        """Blocks as in `stages`."""
        super().__init__()
        self.patch = config.patch_size
        plan = stages(config)
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)
        self.conv_in = PaddedConv3d(config.latent_channels, plan[0].in_channels)
        self.up_blocks = nn.ModuleList()
        for stage in plan:
            if stage.stride:
                block = Upsample(stage.in_channels, stage.out_channels, stage.stride)
            else:
                block = ResnetStack(stage.in_channels, stage.layers, causal=False)
            self.up_blocks.append(block)
        self.conv_out = PaddedConv3d(plan[-1].out_channels, COLOURS * config.patch_size ** 2)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode in one piece.

        Args:
            latent: normalised (B, C, F', H', W') in the module's dtype.

        Returns:
            Pixels (B, 3, 8(F' - 1) + 1, 32 H', 32 W') in the same dtype, nominally in [-1, 1], not clamped.
        """
        x = self.per_channel_statistics.unnormalize(latent)
        x = self.conv_in(pad_frames(x, causal=False))
        for block in self.up_blocks:
            x = block(x)
        x = self.conv_out(activate(x, causal=False))
        return unpatchify(x, self.patch)
