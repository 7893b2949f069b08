"""Decoded pixels as a screen or a file takes them, made where they were decoded."""
from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..errors import NAN_FIX, MediaError
from ..media.image import to_uint8

FRAMES_AT_ONCE = 4  # so that no second copy of a chunk is on the device


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
    if eight_bit:
        return _byte_frames(pixels)
    frames = torch.empty(*pixels.shape[1:], len(pixels))
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        frames[start:start + FRAMES_AT_ONCE] = _unit_frames(pixels[:, start:start + FRAMES_AT_ONCE])
    return frames


def _unit_frames(pixels: Tensor) -> Tensor:
    """(3, f, H, W), nominally in [-1, 1], as (f, H, W, 3) in [0, 1], a view, in their dtype."""
    return rearrange(((pixels + 1) * 0.5).clamp(0, 1), "c f h w -> f h w c")


def _byte_frames(pixels: Tensor) -> Tensor:
    """(3, f, H, W) as (f, H, W, 3) uint8 on the CPU, tested and turned on the device, then one copy of a byte a value.

    On a CPU a 1920x1088 frame took 73 ms to be tested, 37 ms to become bytes and 25 ms to change its layout (issue 10),
    in the encoder's way each time.
    """
    frames = torch.empty(*pixels.shape[1:], len(pixels), dtype=torch.uint8, device=pixels.device)
    whole = torch.ones((), dtype=torch.bool, device=pixels.device)
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        some = pixels[:, start:start + FRAMES_AT_ONCE]
        whole &= torch.isfinite(some).all()
        frames[start:start + FRAMES_AT_ONCE] = to_uint8(_unit_frames(some))
    if not bool(whole):
        raise MediaError("the decoded picture holds NaN or infinity", "finite pixels", NAN_FIX)
    return frames.cpu()
