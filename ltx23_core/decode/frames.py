"""Decoded pixels as frames on the CPU, turned a few at a time so that no second copy of a chunk is on the device."""
from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..errors import MediaError
from ..media.audio import is_finite
from ..media.image import to_uint8

FRAMES_AT_ONCE = 4
NAN_FIX = "Sample again with precision fp32; if that does not help, make sure that the weight files are undamaged."


def to_frames(pixels: Tensor, eight_bit: bool = False) -> Tensor:
    """Pixels of a decoder as frames.

    Args:
        pixels: (3, f, H, W) about [-1, 1], on any device.
        eight_bit: round to 8 bit on the device: a quarter of the bytes to move, the same numbers as `to_uint8` of the
            float frames.

    Returns:
        (f, H, W, 3) on the CPU: float32 in [0, 1], or uint8.

    Raises:
        MediaError: NaN or infinity, which 8 bit would hide.
    """
    if eight_bit and not is_finite(pixels):
        raise MediaError("the decoded picture holds NaN or infinity", "finite pixels", NAN_FIX)
    dtype = torch.float32
    if eight_bit:
        dtype = torch.uint8
    _, count, height, width = pixels.shape
    frames = torch.empty(count, height, width, 3, dtype=dtype)
    for start in range(0, count, FRAMES_AT_ONCE):
        end = start + FRAMES_AT_ONCE
        levels = ((pixels[:, start:end] + 1) * 0.5).clamp(0, 1)  # [-1, 1] to [0, 1]
        some = rearrange(levels, "c f h w -> f h w c")
        if eight_bit:
            some = to_uint8(some)
        frames[start:end] = some
    return frames
