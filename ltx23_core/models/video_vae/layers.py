"""Building blocks shared by the video encoder and decoder (spec/04 §2).

Activations are (B, C, F, H, W) in channels_last_3d memory order, the order in which GPU convolutions run without
transposing. Every convolution reads a buffer that already holds the repeated edge frames, so that padding never
costs a copy of its own: the operation before the convolution writes straight into that buffer.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...errors import OverlayError

PIXEL_NORM_EPS = 1e-8
KERNEL = 3
# Suffix of a block name ("compress_<suffix>" or "compress_<suffix>_res") -> stride over frames, height, width.
STRIDES: dict[str, tuple[int, int, int]] = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}


class ChannelStatistics(nn.Module):
    """Mean and standard deviation of each latent channel, (C,) each: raw latent <-> normalised latent."""

    def __init__(self, channels: int) -> None:
        """Buffers with the official names, which hold a hyphen."""
        super().__init__()
        self.register_buffer("mean-of-means", torch.empty(channels))
        self.register_buffer("std-of-means", torch.empty(channels))

    def _values(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.get_buffer("mean-of-means").to(latent)
        std = self.get_buffer("std-of-means").to(latent)
        shape = "c -> 1 c 1 1 1"
        return rearrange(mean, shape), rearrange(std, shape)

    def normalize(self, latent: Tensor) -> Tensor:
        """Raw latent (B, C, F, H, W) -> the space the transformer works in; computed in the latent's dtype."""
        mean, std = self._values(latent)
        return (latent - mean) / std

    def unnormalize(self, latent: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        mean, std = self._values(latent)
        return latent * std + mean


Write = Callable[[Tensor], object]  # fills the frames of a buffer that it is given


def frame_buffer(like: Tensor, frames: int) -> Tensor:
    """Empty (B, C, frames, H, W) of the other sizes, dtype and device of a tensor, channels_last_3d."""
    batch, channels, _, height, width = like.shape
    shape = (batch, channels, frames, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def pad_frames(x: Tensor, write: Write | None = None) -> Tensor:
    """Copy x into a new buffer with two more frames in front that repeat the first: the encoder is causal.

    Args:
        x: (B, C, F, H, W).
        write: fills the F last frames of the buffer in place of a copy of x.

    Returns:
        (B, C, F + 2, H, W), channels_last_3d, in x's dtype.
    """
    front = KERNEL - 1
    buffer = frame_buffer(x, front + x.shape[2])
    inner = buffer[:, :, front:]
    if write is None:
        inner.copy_(x)
    else:
        write(inner)
    buffer[:, :, :front] = inner[:, :, :1]
    return buffer


def activation(x: Tensor) -> Write:
    """What writes SiLU(PixelNorm(x)) of (B, C, F, H, W).

    PixelNorm divides by the root mean square over the channels. Only the norm, one number a position, is float32;
    the squares are never stored.
    """
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    scale = norm.square_().div_(x.shape[1]).add_(PIXEL_NORM_EPS).rsqrt_()

    def write(inner: Tensor) -> None:
        torch.mul(x, scale, out=inner)
        F.silu(inner, inplace=True)

    return write


def activate(x: Tensor) -> Tensor:
    """SiLU(PixelNorm(x)) with two more frames in front: (B, C, F, H, W) -> (B, C, F + 2, H, W)."""
    return pad_frames(x, activation(x))


class PaddedConv3d(nn.Module):
    """3x3x3 convolution of frames that are padded already: (B, C, F + 2, H, W) -> (B, C', F, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Zero padding in space only."""
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, KERNEL, padding=(0, 1, 1))

    def forward(self, padded: Tensor) -> Tensor:
        """Input from `pad_frames`, `activate` or `stream.FramesBefore`."""
        return self.conv(padded)


class ResnetBlock(nn.Module):
    """x + conv2(SiLU(norm(conv1(SiLU(norm(x)))))), with equal channels on both ends; causal where it is called.

    The decoder's are not, and run in `stream.ResidualStep`.
    """

    def __init__(self, channels: int) -> None:
        """Two convolutions."""
        super().__init__()
        self.conv1 = PaddedConv3d(channels, channels)
        self.conv2 = PaddedConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same tensor, changed in place: no caller then keeps an old activation alive."""
        h = self.conv1(activate(x))
        h = activate(h)  # a line of its own: conv1's output is free before conv2 allocates
        return x.add_(self.conv2(h))


class ResnetStack(nn.Module):
    """The blocks of one ``res_x`` entry; causal where it is called."""

    def __init__(self, channels: int, layers: int) -> None:
        """`layers` blocks of equal width."""
        super().__init__()
        self.res_blocks = nn.ModuleList(ResnetBlock(channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same tensor, changed in place."""
        for block in self.res_blocks:
            x = block(x)
        return x


def block_stride(name: str, suffix: str) -> tuple[int, int, int]:
    """Stride of a block named ``compress_<space|time|all><suffix>``; raises `OverlayError` for any other name."""
    for kind, stride in STRIDES.items():
        if name == f"compress_{kind}{suffix}":
            return stride
    known = ", ".join(f"compress_{kind}{suffix}" for kind in STRIDES)
    raise OverlayError(f"vae config has a block {name!r}", f"res_x, {known}", "Use an LTX-2.3 checkpoint.")


def channels_first(x: Tensor) -> Tensor:
    """(B, F, H, W, C) -> (B, C, F, H, W), a view: of a contiguous tensor it is channels_last_3d."""
    return rearrange(x, "b f h w c -> b c f h w")


def space_to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """(B, C, F*t, H*h, W*w) -> (B, C*t*h*w, F, H, W); channel order (c, t, h, w).

    The result is channels_last_3d.
    """
    t, h, w = stride
    cells = rearrange(x, "b c (F t) (H h) (W w) -> b F H W (c t h w)", t=t, h=h, w=w)
    return channels_first(cells)


def depth_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Inverse of `space_to_depth`; the result is channels_last_3d."""
    t, h, w = stride
    pixels = rearrange(x, "b (c t h w) F H W -> b (F t) (H h) (W w) c", t=t, h=h, w=w)
    return channels_first(pixels)


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """(B, 3, F, H, W) -> (B, 3*p*p, F, H/p, W/p); channel order (colour, width offset, height offset).

    The result is channels_last_3d.
    """
    patches = rearrange(pixels, "b c f (H h) (W w) -> b f H W (c w h)", h=patch, w=patch)
    return channels_first(patches)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """Inverse of `patchify`; the result is contiguous."""
    return rearrange(x, "b (c w h) f H W -> b c f (H h) (W w)", h=patch, w=patch)
