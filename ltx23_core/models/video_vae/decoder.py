"""Video decoder: normalised latents to pixels (spec/04 §4), whole or a piece of the clip at a time."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import NamedTuple

from torch import Tensor, nn

from ...config import VIDEO_SCALE, VideoVAEConfig
from .layers import ChannelStatistics, PaddedConv3d, ResnetStack, block_stride
from .stream import ConvolutionStep, OutputStep, PixelStream, ResidualStep, Step, UpsampleStep, kept_frames

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
    """Convolution to t*h*w times the output channels, then depth-to-space (`stream.UpsampleStep`).

    (B, C, F, H, W) -> (B, C', F*t, H*h, W*w). When t is 2 the first output frame is dropped: F becomes 2F - 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int]) -> None:
        """`stride` (t, h, w) over frames, height, width."""
        super().__init__()
        self.stride = stride
        self.conv = PaddedConv3d(in_channels, out_channels * stride[0] * stride[1] * stride[2])


class VideoDecoder(nn.Module):
    """Non-causal, deterministic decoder. Its peak of memory: `decode.need`."""

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
                block = ResnetStack(stage.in_channels, stage.layers)
            self.up_blocks.append(block)
        self.conv_out = PaddedConv3d(plan[-1].out_channels, COLOURS * config.patch_size ** 2)

    def _kept_sizes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Channels, height and width of what each convolution remembers, for a latent of a size."""
        sizes = [(self.conv_in.conv.in_channels, height, width)]
        for block in self.up_blocks:
            if isinstance(block, Upsample):
                sizes.append((block.conv.conv.in_channels, height, width))
                _, rows, columns = block.stride
                height, width = height * rows, width * columns
                continue
            for inner in block.res_blocks:
                sizes += [(inner.conv1.conv.in_channels, height, width)] * 2
        return [*sizes, (self.conv_out.conv.in_channels, height, width)]

    def _steps(self, kept: Iterator[Tensor | None]) -> list[Step]:
        """What a clip goes through, without a past; ``kept``: in the order of `_kept_sizes`."""
        steps: list[Step] = [ConvolutionStep(self.conv_in, next(kept))]
        for block in self.up_blocks:
            if isinstance(block, Upsample):
                steps.append(UpsampleStep(block.conv, block.stride, next(kept)))
                continue
            for inner in block.res_blocks:
                steps.append(ResidualStep(inner, next(kept), next(kept)))
        return [*steps, OutputStep(self.conv_out, self.patch, next(kept))]

    def pieces(self, latent: Tensor, frames: int, check: Callable[[], None] | None = None) -> Iterator[Tensor]:
        """Decode a clip in one piece, but with few of its frames at a time: memory does not grow with the length.

        Equal to `forward` but for the rounding of kernels that are chosen by shape.

        Args:
            latent: as of `forward`.
            frames: of pixels that are worked on at once; of latents an eighth, one at least.
            check: called before each step; what it raises ends decoding.

        Yields:
            Pixels (B, 3, f, 32 H', 32 W'), in order, f at most ``frames``, together the frames of `forward`. Some 14
            latents have gone in before the first frames come out.
        """
        parts = latent.split(max(1, frames // VIDEO_SCALE[0]), dim=2)
        kept = repeat(None)
        if len(parts) > 1:
            kept = iter(kept_frames(self._kept_sizes(*latent.shape[3:]), latent))
        stream = PixelStream(self._steps(kept), frames, check)
        for number, part in enumerate(parts, 1):
            yield from stream.push(self.per_channel_statistics.unnormalize(part), last=number == len(parts))

    def forward(self, latent: Tensor) -> Tensor:
        """Decode with all frames at once.

        Args:
            latent: normalised (B, C, F', H', W') in the module's dtype.

        Returns:
            Pixels (B, 3, 8(F' - 1) + 1, 32 H', 32 W') in the same dtype, nominally in [-1, 1], not clamped.
        """
        [pixels] = self.pieces(latent, VIDEO_SCALE[0] * latent.shape[2])
        return pixels
