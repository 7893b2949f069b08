"""Decoded pixels as a screen or a file takes them, made where they were decoded."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import NAN_FIX, MediaError


def unit_frames(pixels: Tensor) -> Tensor:
    """Pixels (3, f, H, W), nominally in [-1, 1], as frames (f, H, W, 3) in [0, 1], a view, in their dtype."""
    return ((pixels + 1) * 0.5).clamp(0, 1).permute(1, 2, 3, 0)


def byte_frames(pixels: Tensor, first: int) -> Tensor:
    """Pixels (3, f, H, W) as frames (f, H, W, 3), uint8, contiguous, on the CPU: the bytes of `media.to_uint8`.

    Made on the device a frame at a time, then one copy of a byte a value. On a CPU a 1920x1088 frame took 73 ms to be
    tested, 37 ms to become bytes and 25 ms to change its layout (issue 10), in the encoder's way each time.

    Args:
        pixels: any dtype.
        first: number of the first frame, for the message.

    Raises:
        MediaError: a value is NaN or infinite.
    """
    frames = torch.empty(*pixels.shape[1:], len(pixels), dtype=torch.uint8, device=pixels.device)
    whole = torch.ones((), dtype=torch.bool, device=pixels.device)
    for number in range(len(frames)):
        frame = pixels[:, number:number + 1]
        whole &= torch.isfinite(frame).all()
        frames[number:number + 1] = (unit_frames(frame).float() * 255.0).round_()
    if not bool(whole):
        raise MediaError(f"the picture holds NaN or infinity in frames {first} to {first + len(frames) - 1}",
                         "finite pixels", NAN_FIX)
    return frames.cpu()


def byte_chunks(chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """`byte_frames` of the chunks of one video, in order."""
    count = 0
    for pixels in chunks:
        yield byte_frames(pixels, count)
        count += pixels.shape[1]
