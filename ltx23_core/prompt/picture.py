"""A picture as Gemma's eyes take it (spec/03 §6)."""
from __future__ import annotations

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..media.image import check_image, to_uint8
from ..models.text.vision import VisionConfig

LONG_SIDE = 896  # pixels of a picture before the tower's own square


def image_pixels(image: Tensor, config: VisionConfig) -> Tensor:
    """A picture as the tower takes it: long side to 896 pixels, then to the tower's square, in [-1, 1].

    The proportions are lost on purpose: that is how Gemma 3 was trained to see.

    Args:
        image: (H, W, 3), uint8 or float in [0, 1].

    Returns:
        (1, 3, S, S) float32 on the CPU.

    Raises:
        MediaError: not one RGB picture.
    """
    check_image(image)
    picture = Image.fromarray(to_uint8(image.cpu()).numpy())
    scale, side = LONG_SIDE / max(picture.size), config.tower["image_size"]
    width, height = picture.size
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    for size in (scaled, (side, side)):
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    pixels = rearrange(data, "(h w c) -> 1 c h w", h=side, w=side)
    return (pixels.float() / 255 - 0.5) / 0.5
