"""Tiled decoding and encoding of video: bounded memory, streamed output (spec/04 §5).

An axis of n latents is cut into overlapping spans. Every tile is coded as a clip of its own and weighted with
ramps that sum to 1 over the overlaps. Frames run outermost, so everything before the next span's start is final.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from ..config import VIDEO_SCALE
from ..errors import GeometryError
from ..models.video_vae.decoder import COLOURS
from ..models.video_vae.encoder import crop_frames

AXES = ("frames", "height", "width")
MIN_TILE = (16, 64, 64)           # frames, pixels, pixels
MIN_ENCODE_OVERLAP = (16, 64, 64)
# The official AUTO sizes of this decoder: 80 frames overlapping by 24, a long side of 768 px overlapping by 64.
AUTO_FRAMES, AUTO_LONG_SIDE = (80, 24), (768, 64)
SUM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class AxisTiling:
    """Tile size and overlap of one axis, in frames or pixels."""

    tile: int
    overlap: int


@dataclass(frozen=True)
class Tiling:
    """Tiles along each axis; None leaves an axis in one piece.

    Raises:
        GeometryError: a tile that is too small or not whole latents, or an overlap that is not below its tile.
    """

    frames: AxisTiling | None = None
    height: AxisTiling | None = None
    width: AxisTiling | None = None

    def __post_init__(self) -> None:
        """Check the limits of spec/04 §5."""
        for name, axis, factor, smallest in zip(AXES, self.axes, VIDEO_SCALE, MIN_TILE, strict=True):
            if axis is None:
                continue
            if axis.tile < smallest or axis.tile % factor:
                near = max(smallest, round(axis.tile / factor) * factor)
                raise GeometryError(
                    f"{name} tile is {axis.tile}",
                    f"a multiple of {factor}, at least {smallest}",
                    f"Use {near}.",
                )
            if not 0 <= axis.overlap < axis.tile or axis.overlap % factor:
                near = min(max(0, round(axis.overlap / factor) * factor), axis.tile - factor)
                raise GeometryError(
                    f"{name} overlap is {axis.overlap} for a tile of {axis.tile}",
                    f"a multiple of {factor}, 0 or more and below the tile",
                    f"Use {near}.",
                )

    @property
    def axes(self) -> tuple[AxisTiling | None, AxisTiling | None, AxisTiling | None]:
        """Frames, height, width."""
        return self.frames, self.height, self.width


def auto_tiling(latent_shape: Sequence[int]) -> Tiling:
    """The official AUTO tiles for a latent (..., F', H', W'): the short side's tile follows the aspect ratio."""
    factor, (long_tile, overlap) = VIDEO_SCALE[1], AUTO_LONG_SIDE
    long_side = max(latent_shape[-2:])
    smallest = max(2, overlap // factor + 1)

    def tiles_of(side: int) -> AxisTiling:
        latents = max(smallest, round(long_tile // factor * side / long_side))
        return AxisTiling(latents * factor, overlap)

    *_, height, width = latent_shape
    return Tiling(AxisTiling(*AUTO_FRAMES), tiles_of(height), tiles_of(width))


@dataclass(frozen=True)
class Span:
    """A half-open interval of an axis, and the length of the ramps at its two ends (0: an outer edge)."""

    start: int
    end: int
    left: int = 0
    right: int = 0

    @property
    def length(self) -> int:
        """Of the whole interval, ramps included."""
        return self.end - self.start

    def to_pixels(self, factor: int, temporal: bool) -> Span:
        """From latents to frames or pixels; the first latent frame of a clip is one frame, the others eight."""
        if not temporal:
            return Span(factor * self.start, factor * self.end, factor * self.left, factor * self.right)
        left = 0
        if self.left:
            left = 1 + factor * (self.left - 1)
        return Span(factor * self.start, 1 + factor * (self.end - 1), left, factor * self.right)


def longest(spans: Sequence[Span]) -> int:
    """Length of the longest span."""
    return max(span.length for span in spans)


def split_axis(length: int, axis: AxisTiling | None, factor: int, temporal: bool) -> list[Span]:
    """Cut an axis of `length` latents.

    Along frames every span but the first starts one latent earlier and its left ramp is one longer: a clip's first
    latent gives a single frame, made without a past, and the ramp gives that frame weight 0.
    """
    if axis is None or length <= axis.tile // factor:
        return [Span(0, length)]
    tile, overlap = axis.tile // factor, axis.overlap // factor
    count = (length + tile - 2 * overlap - 1) // (tile - overlap)
    spans = []
    for i in range(count):
        start = i * (tile - overlap)
        end, left, right = start + tile, overlap, overlap
        if i == 0:
            left = 0
        elif temporal:
            start, left = start - 1, left + 1
        if i == count - 1:
            end, right = length, 0
        spans.append(Span(start, end, left, right))
    return spans


def ramp_mask(span: Span, temporal: bool) -> Tensor:
    """Weights of one span, (length,) float32 in [0, 1]; a left ramp along frames starts at exactly 0."""
    mask = torch.ones(span.length)
    if span.left:
        steps = torch.arange(span.left, dtype=torch.float32)
        rising = (steps + 1) / (span.left + 1)
        if temporal:
            rising = steps / span.left
        mask[:span.left] *= rising
    if span.right:
        mask[-span.right:] *= torch.arange(span.right, 0, -1, dtype=torch.float32) / (span.right + 1)
    return mask


def axis_masks(spans: Sequence[Span], temporal: bool) -> list[Tensor]:
    """`ramp_mask` of every span, divided by their sum where that is not 1 (overlaps above half a tile).

    Tiles are the product of the three axes, so dividing an axis at a time equals dividing by the sum of all weights.
    """
    masks = []
    total = torch.zeros(spans[-1].end)
    for span in spans:
        mask = ramp_mask(span, temporal)
        total[span.start:span.end] += mask
        masks.append(mask)
    if (total - 1).abs().max() > SUM_TOLERANCE:
        for index, span in enumerate(spans):
            masks[index] = masks[index] / total[span.start:span.end].clamp_min(1e-8)
    return masks


Tile = tuple[slice, slice, Tensor]
"""Of one axis: what to read, where to write, and the weights on the written grid."""


@dataclass(frozen=True)
class AxisPlan:
    """The tiles of one axis: spans in latents, the same in frames or pixels."""

    latent: list[Span]
    pixel: list[Span]
    temporal: bool

    @property
    def latents(self) -> int:
        """Of the longest tile."""
        return longest(self.latent)

    @property
    def pixels(self) -> int:
        """Frames or pixels of the longest tile."""
        return longest(self.pixel)

    def tiles(self, source: list[Span], target: list[Span], device: torch.device) -> list[Tile]:
        """The tiles of one direction: latent and pixel for decoding, the reverse for encoding."""
        masks = axis_masks(target, self.temporal)
        found = []
        for read, write, mask in zip(source, target, masks, strict=True):
            found.append((slice(read.start, read.end), slice(write.start, write.end), mask.to(device)))
        return found

    def decode_tiles(self, device: torch.device) -> list[Tile]:
        """From latents to pixels."""
        return self.tiles(self.latent, self.pixel, device)

    def encode_tiles(self, device: torch.device) -> list[Tile]:
        """From pixels to latents."""
        return self.tiles(self.pixel, self.latent, device)


def plan_axes(latent_shape: Sequence[int], tiling: Tiling) -> list[AxisPlan]:
    """Tiles along frames, height and width of a latent (..., F', H', W')."""
    axes = zip(AXES, latent_shape[-3:], tiling.axes, VIDEO_SCALE, strict=True)
    plans = []
    for name, length, axis, factor in axes:
        temporal = name == "frames"
        spans = split_axis(length, axis, factor, temporal)
        plans.append(AxisPlan(spans, [span.to_pixels(factor, temporal) for span in spans], temporal))
    return plans


def tile_count(latent_shape: Sequence[int], tiling: Tiling | None) -> int:
    """How many tiles make up a latent (..., F', H', W')."""
    return math.prod(len(plan.latent) for plan in plan_axes(latent_shape, tiling or Tiling()))


def _blend(buffer: Tensor, tile: Tensor, rows: slice, columns: slice,
           masks: tuple[Tensor, Tensor, Tensor]) -> None:
    """Add a tile (B, C, f, h, w) to the first f frames of a buffer, weighted in float32, summed in its own dtype."""
    frames, height, width = masks
    weight = frames[:, None, None] * height[:, None] * width
    buffer[:, :, :tile.shape[2], rows, columns] += tile * weight


def tiled_decode(decoder: Callable[[Tensor], Tensor], latent: Tensor, tiling: Tiling | None,
                 check: Callable[[], None] | None = None) -> Iterator[Tensor]:
    """Decode tile by tile and yield frames, in order, as soon as no later tile can change them.

    Memory does not grow with the number of frames as long as the caller lets go of the chunks.

    Args:
        decoder: a `VideoDecoder` (or anything that maps a latent tile to its pixels).
        latent: normalised (B, C, F', H', W') in the decoder's dtype, on its device.
        tiling: None decodes in one piece, as does a tiling that cuts no axis.
        check: called before each tile; an exception raised in it ends decoding.

    Yields:
        Pixels (B, 3, f, 32 H', 32 W') in the latent's dtype, not clamped; f as `chunk_frames` says. f is 0 when the
        second tile starts at frame 0, too (an overlap of all but one latent), as in the official code.
    """
    check = check or (lambda: None)
    device = latent.device
    frames, height, width = plan_axes(latent.shape, tiling or Tiling())
    if all(len(plan.latent) == 1 for plan in (frames, height, width)):
        check()
        yield decoder(latent)
        return
    rows, columns = height.decode_tiles(device), width.decode_tiles(device)
    finals = chunk_frames(latent.shape[2], tiling)
    sides = height.pixel[-1].end, width.pixel[-1].end
    carry: Tensor | None = None
    for (read, write, weights), final in zip(frames.decode_tiles(device), finals, strict=True):
        buffer = latent.new_zeros(len(latent), COLOURS, write.stop - write.start, *sides)
        if carry is not None:
            buffer[:, :, :carry.shape[2]] = carry
            carry = None  # and with it the last group's buffer, before this group's tiles need the memory
        for (read_h, write_h, weights_h), (read_w, write_w, weights_w) in product(rows, columns):
            check()
            tile = decoder(latent[:, :, read, read_h, read_w])
            _blend(buffer, tile, write_h, write_w, (weights, weights_h, weights_w))
            del tile
        carry = buffer[:, :, final:]
        yield buffer[:, :, :final]
        del buffer


def tiled_encode(encoder: Callable[[Tensor], Tensor], pixels: Tensor, tiling: Tiling | None,
                 check: Callable[[], None] | None = None) -> Tensor:
    """Encode tile by tile; the blending happens on the latent grid, where the encoder's results are.

    Args:
        encoder: a `VideoEncoder` (or anything that maps a tile of pixels to its latent; it may bring the tile to its
            own device and dtype, so that only one tile of a long clip is there).
        pixels: (B, 3, F, H, W) in [-1, 1]; F is cut to 8k + 1.
        tiling: None encodes in one piece. Overlaps of at least 16 frames and 64 pixels.
        check: called before each tile; an exception raised in it ends encoding.

    Returns:
        Normalised latent (B, C, F', H', W') as the encoder gives it.

    Raises:
        GeometryError: an overlap too small for encoding, or a size that does not fit the latent grid.
    """
    check, tiling = check or (lambda: None), tiling or Tiling()
    for name, axis, smallest in zip(AXES, tiling.axes, MIN_ENCODE_OVERLAP, strict=True):
        if axis is not None and axis.overlap < smallest:
            raise GeometryError(
                f"{name} overlap is {axis.overlap}",
                f"at least {smallest} for encoding",
                f"Use an overlap of {smallest} and a larger tile.",
            )
    pixels = crop_frames(pixels)
    shape = [(size - 1) // factor + 1 for size, factor in zip(pixels.shape[2:], VIDEO_SCALE, strict=True)]
    frames, height, width = plan_axes(shape, tiling)
    times = frames.encode_tiles(pixels.device)
    rows = height.encode_tiles(pixels.device)
    columns = width.encode_tiles(pixels.device)
    latent: Tensor | None = None
    for (read, write, weights), row, column in product(times, rows, columns):
        check()
        (read_h, write_h, weights_h), (read_w, write_w, weights_w) = row, column
        tile = encoder(pixels[:, :, read, read_h, read_w])
        if latent is None:  # the first tile tells channels, dtype and device
            latent = tile.new_zeros(*tile.shape[:2], *shape)
        device = tile.device
        masks = weights.to(device), weights_h.to(device), weights_w.to(device)
        _blend(latent[:, :, write], tile, write_h, write_w, masks)
    return latent


def chunk_frames(latent_frames: int, tiling: Tiling | None) -> list[int]:
    """Number of frames of each chunk that `tiled_decode` yields for a clip of `latent_frames` latents."""
    factor = VIDEO_SCALE[0]
    axis = (tiling or Tiling()).frames
    spans = split_axis(latent_frames, axis, factor, temporal=True)
    edges = [span.to_pixels(factor, temporal=True).start for span in spans]
    edges.append(spans[-1].to_pixels(factor, temporal=True).end)
    return [after - start for start, after in pairwise(edges)]


def encode_tile_size(latent_shape: Sequence[int], tiling: Tiling | None) -> tuple[int, int, int]:
    """Frames, height and width in pixels of the largest tile that `tiled_encode` gives its encoder."""
    frames, height, width = plan_axes(latent_shape, tiling or Tiling())
    return frames.pixels, height.pixels, width.pixels
