"""Decoded pixels as a screen or a file takes them, made where they were decoded."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from einops import rearrange
from torch import Tensor

from ..errors import NAN_FIX, MediaError
from ..media.image import to_uint8

FRAMES_AT_ONCE = 4  # so that no second copy of a chunk is on the device
LEAVE_TOGETHER = 8  # frames of 8 bit: an encoder begins with the last chunk while the rest of it is being copied


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
        return ByteFrames(pixels).on_cpu()
    frames = torch.empty(*pixels.shape[1:], len(pixels))
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        frames[start:start + FRAMES_AT_ONCE] = _unit_frames(pixels[:, start:start + FRAMES_AT_ONCE])
    return frames


def leaving(chunks: Iterable[Tensor], eight_bit: bool = False) -> Iterator[Tensor]:
    """`to_frames` of each chunk (1, 3, f, H, W), in order.

    Those of 8 bit leave a CUDA device while it works on the next chunk: that is asked for first. They come
    `LEAVE_TOGETHER`.
    """
    before: ByteFrames | None = None
    for chunk in chunks:
        if not eight_bit:
            frames = to_frames(chunk[0])
            del chunk  # it may be a part of more
            yield frames
            continue
        now = ByteFrames(chunk[0])
        del chunk
        if before is not None:
            yield from before.parts()
        before = now
    if before is not None:
        yield from before.parts()


def _unit_frames(pixels: Tensor) -> Tensor:
    """(3, f, H, W), nominally in [-1, 1], as (f, H, W, 3) in [0, 1], a view, in their dtype."""
    return rearrange(((pixels + 1) * 0.5).clamp(0, 1), "c f h w -> f h w c")


class ByteFrames:
    """Frames of 8 bit, tested and turned where they were decoded: a byte a value leaves the device, once.

    On a CPU a 1920x1088 frame took 73 ms to be tested, 37 ms to become bytes and 25 ms to change its layout (issue 10),
    in the encoder's way each time.

    Args:
        pixels: (3, f, H, W) about [-1, 1]. Work is asked for, not waited for.
    """

    def __init__(self, pixels: Tensor) -> None:
        shape = *pixels.shape[1:], len(pixels)
        self._frames = torch.empty(shape, dtype=torch.uint8, device=pixels.device)
        self._finite = torch.ones((), dtype=torch.bool, device=pixels.device)
        for start in range(0, len(self._frames), FRAMES_AT_ONCE):
            some = pixels[:, start:start + FRAMES_AT_ONCE]
            self._finite &= torch.isfinite(some).all()
            self._frames[start:start + FRAMES_AT_ONCE] = to_uint8(_unit_frames(some))
        self._made: torch.cuda.Event | None = None
        if pixels.is_cuda:
            self._made = torch.cuda.Event()
            self._made.record(torch.cuda.current_stream(pixels.device))

    def on_cpu(self) -> Tensor:
        """(f, H, W, 3) uint8 on the CPU, in ordinary memory; waits for these frames, not for what was asked for since.

        Raises:
            MediaError: NaN or infinity.
        """
        return self._copied(self._frames)

    def parts(self) -> Iterator[Tensor]:
        """`on_cpu`, at most `LEAVE_TOGETHER` frames at a time."""
        return map(self._copied, self._frames.split(LEAVE_TOGETHER))

    def _copied(self, frames: Tensor) -> Tensor:
        """Some of the frames."""
        if self._made is None:
            return self._checked(self._finite, frames)
        with torch.cuda.stream(_copying(frames.device)):
            torch.cuda.current_stream().wait_event(self._made)
            return self._checked(self._finite.cpu(), frames)

    @staticmethod
    def _checked(finite: Tensor, frames: Tensor) -> Tensor:
        if not bool(finite):
            raise MediaError("the decoded picture holds NaN or infinity", "finite pixels", NAN_FIX)
        return frames.cpu()


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream on which frames leave a device."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
