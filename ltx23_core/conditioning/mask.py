"""Masks in space and time: what of them the result shows, and their values on the latent grid."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional

from ..errors import MediaError
from ..geometry import TIME_SCALE, VideoGrid


def check_mask(mask: Tensor, frames: int) -> None:
    """Refuse what is not (F or 1, H, W) in [0, 1] for a clip of F frames. Raises `MediaError`."""
    if mask.ndim != 3 or len(mask) not in (1, frames) or 0 in mask.shape:
        raise MediaError(f"the mask has shape {tuple(mask.shape)}",
                         f"({frames}, height, width), one for each frame of the clip, or (1, height, width) "
                         "for all",
                         "Give as many masks as frames, or one.")
    low, high = map(float, torch.aminmax(mask.float()))
    if not (low >= 0 and high <= 1):
        raise MediaError(f"the mask has values from {low:g} to {high:g}", "values from 0 to 1",
                         "Scale the mask to 0 to 1.")


def visible(mask: Tensor, height: int, width: int, picture: tuple[int, int] | None = None) -> Tensor:
    """The part of a mask (F, H, W) that is seen where its frames are scaled to cover height x width and cropped.

    Args:
        mask: laid over the picture whatever its own proportions, as ComfyUI does.
        height, width: of the result.
        picture: height and width of the frames; None: those of the mask.
    """
    mask = _stretched(mask, picture)
    rows, columns = mask.shape[1:]
    scale = max(height / rows, width / columns)
    top, left = _hidden(rows, height / scale), _hidden(columns, width / scale)
    return mask[:, top:rows - top, left:columns - left]


def _hidden(size: int, seen: float) -> int:
    """Whole rows or columns cut off at each end where so many of ``size`` are seen."""
    return math.floor(max(0.0, size - seen) / 2 + 1e-6)


def of_frames(mask: Tensor, picks: Sequence[int]) -> Tensor:
    """float32 masks of some frames, (k, H, W); one for the whole clip stays one."""
    if len(mask) == 1:
        return mask.float()
    return mask[list(picks)].float()


def _stretched(mask: Tensor, picture: tuple[int, int] | None) -> Tensor:
    """A mask in the proportions of the picture: rows or columns are repeated, none is lost, values stay."""
    rows, columns = mask.shape[1:]
    if picture is None or rows * picture[1] == columns * picture[0]:
        return mask
    # The picture's own size if that is larger in both, so that small masks are cropped to the pixel.
    factor = max(1.0, rows / picture[0], columns / picture[1])
    size = (math.ceil(picture[0] * factor), math.ceil(picture[1] * factor))
    return functional.interpolate(mask[:, None], size=size, mode="nearest-exact")[:, 0]


def latent_mask(mask: Tensor, picks: Sequence[int], grid: VideoGrid,
                picture: tuple[int, int] | None = None) -> Tensor:
    """Largest value of a mask in each latent cell: a cell is regenerated if any of its pixels is.

    Args:
        mask: (F, H, W) or (1, H, W) in [0, 1].
        picks: the frames of the clip, 8 (F' - 1) + 1 of them.
        grid: of the latent; its first latent frame covers one frame, each other one eight.
        picture: height and width of the clip's frames, over which the mask is laid; None: of the mask.

    Returns:
        float32 (F' H' W', 1), token order.
    """
    seen = visible(of_frames(mask, picks), grid.height * 32, grid.width * 32, picture)
    cells = functional.adaptive_max_pool2d(seen[:, None], (grid.height, grid.width))[:, 0]
    if len(cells) == 1:
        return repeat(cells, "1 h w -> (f h w) 1", f=grid.frames)
    later = reduce(cells[1:], "(f t) h w -> f h w", "max", t=TIME_SCALE)  # a latent frame is eight frames
    return rearrange(torch.cat((cells[:1], later)), "f h w -> (f h w) 1")
