"""The video VAE's forward pass in a form that gradients flow through.

The library's own forward writes into buffers to save memory, which autograd cannot follow. Here is the same
arithmetic on the same parameters; a test holds the two together.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.train.library import (
    VideoDecoder,
    VideoEncoder,
    depth_to_space,
    patchify,
    space_to_depth,
    unpatchify,
)

_EPS = 1e-8


def _pad(x: Tensor, causal: bool) -> Tensor:
    first = x[:, :, :1]
    return torch.cat([first, first, x] if causal else [first, x, x[:, :, -1:]], dim=2)


def _activate(x: Tensor) -> Tensor:
    scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + _EPS)
    return F.silu(x * scale.to(x.dtype))


def _conv(module: nn.Module, x: Tensor, causal: bool) -> Tensor:
    return module.conv(_pad(x, causal))


def _stack(stack: nn.Module, x: Tensor, causal: bool) -> Tensor:
    for block in stack.res_blocks:
        h = _conv(block.conv1, _activate(x), causal)
        x = x + _conv(block.conv2, _activate(h), causal)
    return x


def moments(encoder: VideoEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, F, H, W) in [-1, 1] -> raw means (B, C, F', H', W') and log-variance (B, 1, F', H', W')."""
    x = _conv(encoder.conv_in, patchify(pixels, encoder.patch).contiguous(memory_format=torch.channels_last_3d), True)
    for block in encoder.down_blocks:
        if hasattr(block, "res_blocks"):
            x = _stack(block, x, True)
            continue
        if block.stride[0] == 2:
            x = torch.cat([x[:, :, :1], x], dim=2)
        skip = space_to_depth(x, block.stride).unflatten(1, (block.out_channels, -1)).mean(2)
        x = space_to_depth(_conv(block.conv, x, True), block.stride) + skip
    out = _conv(encoder.conv_out, _activate(x), True)
    return out[:, :encoder.latent_channels], out[:, encoder.latent_channels:]


def pixels_of(decoder: VideoDecoder, latent: Tensor) -> Tensor:
    """Raw (un-normalised) latent (B, C, F', H', W') -> pixels, nominally in [-1, 1]."""
    x = _conv(decoder.conv_in, latent, False)
    for block in decoder.up_blocks:
        if hasattr(block, "res_blocks"):
            x = _stack(block, x, False)
            continue
        x = depth_to_space(_conv(block.conv, x, False), block.stride)
        x = x[:, :, 1:] if block.stride[0] == 2 else x
    return unpatchify(_conv(decoder.conv_out, _activate(x), False), decoder.patch)
