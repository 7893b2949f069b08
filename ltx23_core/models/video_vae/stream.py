"""The decoder's arithmetic with few frames at a time (spec/04 §4).

A convolution sees one frame to each side. So each remembers the two frames before, gives its outputs a frame late,
and repeats the edges of the clip only where they are. What comes out is the decoded clip, not one of tiles that were
blended. Measures: `decode.need`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Protocol

from torch import Tensor

from .layers import PaddedConv3d, ResnetBlock, activation, depth_to_space, frame_buffer, unpatchify

BEFORE = 2  # frames that a convolution remembers


class Step(Protocol):
    """One step of the decoder, with what it remembers of the clip so far."""

    rate: int  # frames out for a frame in

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        """The next frames (B, C, F, H, W) of its input -> those of its output that are known now.

        Args:
            x: may be changed.
            last: nothing comes after them.

        Returns:
            None where none are known yet.
        """


def kept_frames(sizes: Sequence[tuple[int, int, int]], like: Tensor) -> list[Tensor]:
    """What convolutions remember, (B, C, 2, H, W) each, channels_last_3d, in one piece of memory.

    It stays while everything else comes and goes: between the others it would hold on to much larger pieces of the
    device's allocator.

    Args:
        sizes: channels, height and width of each.
        like: for the batch, dtype and device.
    """
    counts = [len(like) * BEFORE * channels * height * width for channels, height, width in sizes]
    memory = like.new_empty(sum(counts))
    kept = []
    for (channels, height, width), part in zip(sizes, memory.split(counts), strict=True):
        rows = part.view(len(like), BEFORE, height, width, channels)
        kept.append(rows.permute(0, 4, 1, 2, 3))
    return kept


class FramesBefore:
    """What a convolution remembers of its input, and where the clip is padded.

    Args:
        kept: (B, C, 2, H, W) for the last two frames; None: there is one piece alone.
    """

    def __init__(self, kept: Tensor | None) -> None:
        """A clip that has not begun."""
        self._kept, self._begun = kept, False

    def padded(self, x: Tensor, last: bool, active: bool = False) -> Tensor | None:
        """The frames before, x, and at an end of the clip its frame once more: what a convolution takes.

        Args:
            x: (B, C, F, H, W).
            last: the clip ends with them.
            active: SiLU(PixelNorm(x)) in place of x.

        Returns:
            (B, C, f, H, W), for f - 2 frames of output; None: not even for one.
        """
        front = 1 + self._begun
        buffer = frame_buffer(x, front + x.shape[2] + last)
        inner = buffer[:, :, front:front + x.shape[2]]
        if active:
            activation(x)(inner)
        else:
            inner.copy_(x)
        if self._begun:
            buffer[:, :, :BEFORE] = self._kept
        else:
            buffer[:, :, :1] = inner[:, :, :1]
        if last:
            buffer[:, :, -1:] = buffer[:, :, -2:-1]
        else:
            self._kept.copy_(buffer[:, :, -BEFORE:])
            self._begun = True
        if buffer.shape[2] <= BEFORE:
            return None
        return buffer


class ConvolutionStep:
    """A convolution alone; ``kept`` as of `FramesBefore`."""

    rate = 1

    def __init__(self, conv: PaddedConv3d, kept: Tensor | None) -> None:
        self._conv, self._before = conv, FramesBefore(kept)

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        """See `Step`."""
        padded = self._before.padded(x, last)
        if padded is None:
            return None
        return self._conv(padded)


class OutputStep:
    """The last convolution, from activations to pixels; ``kept`` as of `FramesBefore`."""

    rate = 1

    def __init__(self, conv: PaddedConv3d, patch: int, kept: Tensor | None) -> None:
        self._conv, self._patch, self._before = conv, patch, FramesBefore(kept)

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        """See `Step`."""
        padded = self._before.padded(x, last, active=True)
        if padded is None:
            return None
        return unpatchify(self._conv(padded), self._patch)


class UpsampleStep:
    """`decoder.Upsample`; of twice as many frames the first one of the clip is dropped. ``kept`` as of `FramesBefore`.
    """

    def __init__(self, conv: PaddedConv3d, stride: tuple[int, int, int], kept: Tensor | None) -> None:
        self._conv, self._stride, self._before = conv, stride, FramesBefore(kept)
        self.rate = stride[0]
        self._drop = self.rate - 1

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        """See `Step`."""
        padded = self._before.padded(x, last)
        if padded is None:
            return None
        cells = self._conv(padded)
        del padded
        larger = depth_to_space(cells, self._stride)[:, :, self._drop:]
        self._drop = 0
        return larger


class ResidualStep:
    """x + conv2(SiLU(norm(conv1(SiLU(norm(x)))))), two frames late.

    The last two frames of x serve twice: they wait for their update, and activated again they are what the first
    convolution remembers.

    Args:
        block: the block.
        kept, kept_inside: as of `FramesBefore`, of x and of the second convolution's input.
    """

    rate = 1

    def __init__(self, block: ResnetBlock, kept: Tensor | None, kept_inside: Tensor | None) -> None:
        self._block, self._second = block, FramesBefore(kept_inside)
        self._x, self._begun = kept, False  # the last two frames; of a clip of one frame so far, that one twice
        self._waiting = 0  # how many of them have no update yet

    def push(self, x: Tensor, last: bool) -> Tensor | None:
        """See `Step`."""
        update = self._update(x, last)
        frames = 0
        if update is not None:
            frames = update.shape[2]
            self._add_to(update, x)
        self._waiting += x.shape[2] - frames
        if not last:
            self._remember(x)
        return update

    def _update(self, x: Tensor, last: bool) -> Tensor | None:
        """What is added to the frames that waited, then to those of x."""
        padded = self._padded(x, last)
        if padded is None:
            return None
        h = self._block.conv1(padded)
        del padded  # free before more is allocated, as is h
        padded = self._second.padded(h, last, active=True)
        del h
        if padded is None:
            return None
        return self._block.conv2(padded)

    def _padded(self, x: Tensor, last: bool) -> Tensor | None:
        """What the first convolution takes."""
        front = 1 + self._begun
        buffer = frame_buffer(x, front + x.shape[2] + last)
        inner = buffer[:, :, front:front + x.shape[2]]
        activation(x)(inner)
        if self._begun:
            activation(self._x)(buffer[:, :, :BEFORE])
        else:
            buffer[:, :, :1] = inner[:, :, :1]
        if last:
            buffer[:, :, -1:] = buffer[:, :, -2:-1]
        if buffer.shape[2] <= BEFORE:
            return None
        return buffer

    def _add_to(self, update: Tensor, x: Tensor) -> None:
        """Make the update the result, where it lies."""
        waited = min(self._waiting, update.shape[2])
        if waited:
            start = BEFORE - self._waiting
            update[:, :, :waited] += self._x[:, :, start:start + waited]
        new = update.shape[2] - waited
        update[:, :, waited:] += x[:, :, :new]

    def _remember(self, x: Tensor) -> None:
        """Keep the last two frames so far."""
        if x.shape[2] >= BEFORE or not self._begun:
            self._x.copy_(x[:, :, -BEFORE:])  # a single one twice
        else:
            self._x[:, :, :-1] = self._x[:, :, 1:]
            self._x[:, :, -1:] = x
        self._begun = True


class PixelStream:
    """A clip on its way through steps, a piece at a time.

    Args:
        steps: without a past, in order.
        frames: of the last step's output that are worked on at once; of the steps before as many fewer as they have,
            but one at least.
        check: called before each step.
    """

    def __init__(self, steps: Sequence[Step], frames: int, check: Callable[[], None] | None = None) -> None:
        self._steps, self._check = steps, check or (lambda: None)
        whole = prod(step.rate for step in steps)
        rate, self._most = 1, [max(1, frames // whole)]  # most frames of each step's input, and of the output
        for step in steps:
            rate *= step.rate
            self._most.append(max(1, frames * rate // whole))

    def push(self, x: Tensor, last: bool) -> Iterator[Tensor]:
        """What is known of the last step's output after these frames of the first one's input."""
        return self._through(0, x, last)

    def _through(self, number: int, x: Tensor, last: bool) -> Iterator[Tensor]:
        """The same from one of the steps on. Whoever passes frames on lets go of them."""
        if number == len(self._steps):
            yield x
            return
        self._check()
        made = self._steps[number].push(x, last)
        del x
        if made is None:
            return
        # The end of a clip brings every step's late frames at once: not more than the usual number goes on together.
        parts = _parts(made, self._most[number + 1])
        del made
        while parts:
            yield from self._through(number + 1, parts.pop(), last=last and not parts)


def _parts(x: Tensor, most: int) -> list[Tensor]:
    """Frames in parts of at most so many, the first part last; those behind it in memory of their own."""
    parts = list(x.split(most, dim=2))
    for number in range(1, len(parts)):
        parts[number] = parts[number].clone()
    return parts[::-1]
