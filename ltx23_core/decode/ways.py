"""How a video latent can be decoded, the best way first, and what each needs beside the weights.

Best is the whole clip with few of its frames at a time (`models.video_vae.stream`): nothing is blended, nothing is
computed twice, and memory does not grow with the length. Where not even one latent at a time has room, tiles are cut:
the official ones (spec/04 §5), then smaller ones.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import VIDEO_SCALE, VideoVAEConfig
from ..memory.estimates import CUDNN
from ..models.video_vae.decoder import COLOURS, Stage, VideoDecoder, stages
from ..models.video_vae.layers import KERNEL
from ..models.video_vae.stream import BEFORE
from .tiles import AxisTiling, Tiling, auto_tiling, plan_axes, tiled_decode

AUTO_TILING = "auto"
AT_ONCE = (32, 16, 8, 4, 2)  # frames
LATE = 10  # frames of a residual block's tensors beyond three times those that are worked on, see `streamed_bytes`
# Frames and their overlap, and the long side, of tiles where the official ones are too large.
SMALLER = ((48, 24, 512), (32, 16, 384), (24, 16, 256), (24, 16, 192), (16, 8, 128))
OVERLAP = 64  # pixels


@dataclass(frozen=True)
class Way:
    """One way to decode a latent.

    Attributes:
        bytes: most beside the weights.
        text: for the plan's line.
        frames: that are worked on at once; 0: tiles.
        tiling: of these.
    """

    bytes: int
    text: str
    frames: int = 0
    tiling: Tiling | None = None

    def decoded(self, decoder: VideoDecoder, latent: Tensor, check: Callable[[], None] | None = None) -> (
            Iterator[Tensor]):
        """Pixels (B, 3, f, 32 H', 32 W') in the latent's dtype, in order, not clamped.

        Args:
            decoder: with weights.
            latent: normalised (B, C, F', H', W') in its dtype, on its device.
            check: called before each step; what it raises ends decoding.
        """
        if self.frames:
            return decoder.pieces(latent, self.frames, check)
        return tiled_decode(decoder, latent, self.tiling, check)


def ways(config: VideoVAEConfig, shape: Sequence[int], tiling: Tiling | str | None, dtype: torch.dtype) -> list[Way]:
    """The ways to decode a latent, the best first; each needs less than those before.

    Args:
        config: of the decoder.
        shape: of the latent, (B, C, F', H', W').
        tiling: "auto", a tiling (then this is the only way), or None: all frames at once.
        dtype: of latent and weights.
    """
    if tiling is None:
        return [_all_at_once(config, shape, dtype)]
    if tiling != AUTO_TILING:
        return [_tiled(config, shape, tiling, dtype)]
    found = []
    for frames in AT_ONCE:
        if frames >= VIDEO_SCALE[0] * shape[2]:
            found.append(_all_at_once(config, shape, dtype))
            continue
        text = f"decode {frames} frames at a time"
        found.append(Way(streamed_bytes(config, shape, frames, dtype), text, frames))
    for each in (auto_tiling(shape), *map(_smaller, SMALLER)):
        found.append(_tiled(config, shape, each, dtype))
    kept: list[Way] = []
    for way in found:
        if not kept or way.bytes < kept[-1].bytes:
            kept.append(way)
    return kept


def _all_at_once(config: VideoVAEConfig, shape: Sequence[int], dtype: torch.dtype) -> Way:
    size = activation_bytes(config, shape, dtype) + CUDNN
    return Way(size, "decode whole", VIDEO_SCALE[0] * shape[2])


def _smaller(sizes: tuple[int, int, int]) -> Tiling:
    frames, overlap, side = sizes
    across = AxisTiling(side, min(OVERLAP, side // 2))
    return Tiling(AxisTiling(frames, overlap), across, across)


def _tiled(config: VideoVAEConfig, shape: Sequence[int], tiling: Tiling, dtype: torch.dtype) -> Way:
    count, sizes = 1, []
    for plan in plan_axes(shape, tiling):
        count *= len(plan.latent)
        sizes.append(plan.pixels)
    frames, height, width = sizes
    text = f"decode in {count} tiles of {frames} frames of {width}x{height}"
    if count == 1:
        text = "decode whole"
    return Way(tiled_bytes(config, shape, tiling, dtype), text, tiling=tiling)


def activation_bytes(config: VideoVAEConfig, tile_latent_shape: Sequence[int], dtype: torch.dtype) -> int:
    """Estimated peak of `VideoDecoder.forward` on one tile, in bytes, without weights.

    The largest over the stages of the tensors alive at once, where a stage works on C channels of F x H x W and X is
    its input: C F H W, or C (F + 1) H W where the step before dropped a frame (the view keeps it alive):
        residual block: X + C (F + 2) H W + C F H W    input, padded activation, a convolution's output
        up-sampling:    X + C (F + 2) H W + O          input, padded input, the convolution's output O
                        or X + 2 O                     input, O, O moved from depth to space
        output:         X + C (F + 2) H W + 3pp F H W  input, padded activation, patches of p x p pixels
    Measured on an H200 with cuDNN 9.19: 0.3 to 0.5 % above the estimate.

    Args:
        config: of the decoder.
        tile_latent_shape: (B, C, F', H', W') of the tile.
        dtype: of latent and weights.
    """
    batch, _, frames, height, width = tile_latent_shape
    peak, dropped = 0, 0
    output = Stage(1, stages(config)[-1].out_channels, COLOURS * config.patch_size ** 2, (1, 1, 1))
    for stage in (*stages(config), output):
        area = height * width
        plane = stage.in_channels * area
        given = (frames + dropped) * plane
        padded = (frames + KERNEL - 1) * plane
        if stage.stride is None:
            peak = max(peak, given + padded + frames * plane)
            continue
        t, h, w = stage.stride
        out = stage.out_channels * t * h * w * frames * area
        peak = max(peak, given + padded + out, given + 2 * out)
        dropped = t - 1
        frames, height, width = frames * t - dropped, height * h, width * w
    return batch * peak * dtype.itemsize


def streamed_bytes(config: VideoVAEConfig, latent_shape: Sequence[int], frames: int, dtype: torch.dtype) -> int:
    """Estimated peak of `VideoDecoder.pieces`, in bytes, without weights and latent; the clip is longer than a piece.

    Kept all the time: two frames of each convolution's input; a residual block has two convolutions. Beside that, what
    the step with the largest tensors holds of F frames, where the end of a clip brings some late ones (`LATE`):
        residual block: the input, F + 2; padded, F + 4; the result, F + 2; late frames that wait, 2
        up-sampling:    input F, padded F + 3, the convolution's output twice, F + 1
        output:         input F, padded F + 3, patches and pixels, F + 1
    And frames of 8 bit of the piece before, which are on their way to the CPU.
    """
    batch, channels, _, height, width = latent_shape
    kept, peak, rate = BEFORE * channels * height * width, 0, 1
    output = Stage(1, stages(config)[-1].out_channels, COLOURS * config.patch_size ** 2, (1, 1, 1))
    for stage in (*stages(config), output):
        now = max(1, frames * rate // VIDEO_SCALE[0])
        plane = stage.in_channels * height * width
        if stage.stride is None:
            kept += stage.layers * 2 * BEFORE * plane
            peak = max(peak, (3 * now + LATE) * plane)
            continue
        t, h, w = stage.stride
        kept += BEFORE * plane
        out = stage.out_channels * t * h * w * (now + 1) * height * width
        peak = max(peak, (2 * now + 3) * plane + out, now * plane + 2 * out)
        rate, height, width = rate * t, height * h, width * w
    pixels = batch * COLOURS * frames * height * width * config.patch_size ** 2
    return batch * (kept + peak) * dtype.itemsize + pixels + CUDNN


def tiled_bytes(config: VideoVAEConfig, latent_shape: Sequence[int], tiling: Tiling, dtype: torch.dtype) -> int:
    """Estimated peak of `tiled_decode`, in bytes, without weights and latent.

    The activations of the largest tile beside the group of output frames that is being summed up; or, where one group
    follows another, both. And the frames of 8 bit of the group before.
    """
    frames, height, width = plan_axes(latent_shape, tiling)
    batch, channels = latent_shape[:2]
    tile = batch, channels, frames.latents, height.latents, width.latents
    pixels = batch * COLOURS * frames.pixels * height.pixel[-1].end * width.pixel[-1].end
    group = pixels * dtype.itemsize
    return max(activation_bytes(config, tile, dtype) + group, 2 * group) + pixels + CUDNN
