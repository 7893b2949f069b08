"""Preparation of condition images (spec/07 §8): load, compress like a video frame, resize, crop, normalise."""
from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional

from ..errors import MediaError

MAX_CRF = 51  # the end of libx264's scale for 8-bit video
FRAMES_AT_ONCE = 8


def load_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read an image file, upright and without alpha -> (H, W, 3) uint8. Raises `MediaError`."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # Pillow clips 16-bit grey at 255 instead of scaling it
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            return torch.from_numpy(np.array(image.convert("RGB")))
    except FileNotFoundError:
        raise MediaError(f"there is no file {os.fspath(path)}", "an image file",
                         "Check the path of the image.") from None
    except UnidentifiedImageError:
        raise MediaError(f"{os.fspath(path)} is not an image that Pillow can read", "PNG, JPEG, WebP or "
                                                                                    "similar",
                         "Convert the image to PNG.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{os.fspath(path)} cannot be read as an image ({error})", "a complete image file",
                         "Open it in an image program, save it anew and use that file.") from error


def check_pixels(pixels: torch.Tensor, what: str) -> None:
    """Raise `MediaError` for pixels that are neither uint8 nor floats: of 16 bits nobody knows what is white."""
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise MediaError(f"{what} has pixels of {str(pixels.dtype).removeprefix('torch.')}",
                         "uint8, or floats in [0, 1]", "Divide by the largest value, 65535 for 16 bits.")


def to_uint8(image: torch.Tensor) -> torch.Tensor:
    """Pixels of any shape -> uint8: floats in [0, 1] are scaled, rounded and clamped; uint8 stays as it is."""
    if image.dtype == torch.uint8:
        return image
    return (image.float() * 255.0).round_().clamp_(0, 255).to(torch.uint8)


def compress_image(image: torch.Tensor, crf: int) -> torch.Tensor:
    """Give an image the artefacts of a video frame by one H.264 round trip in memory.

    The model was trained on video frames: too clean a picture makes it hold still.

    Args:
        image: (H, W, 3) uint8.
        crf: libx264 quality 0 to 51, more is coarser; 0 leaves the image as it is.

    Returns:
        (H', W', 3) uint8; H' and W' are H and W rounded down to even numbers, unless ``crf`` is 0.
    """
    import av  # here, so that sampling without pictures does not need it
    check_image(image)
    if not 0 <= crf <= MAX_CRF:
        raise MediaError(f"image compression (CRF) is {crf}", f"0 (off) to {MAX_CRF}", "Use 33, the official "
                                                                                       "value.")
    if crf == 0:
        return image
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    if not (height and width):
        raise MediaError(f"the image is {image.shape[1]}x{image.shape[0]} pixels", "at least 2x2 pixels",
                         "Use a larger image.")
    pixels = np.ascontiguousarray(to_uint8(image[:height, :width]).cpu().numpy())
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    # The frame lasts a second: with CRF, libx264 gives more bits to a frame that is seen longer.
    encoder.framerate, encoder.time_base = Fraction(1), Fraction(1)
    encoder.options = {"crf": str(crf), "preset": "veryfast"}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    frames = [f for packet in [*packets, None] for f in decoder.decode(packet)]
    return torch.from_numpy(frames[0].to_ndarray(format="rgb24"))


def resize_and_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scale an image to cover the target (bilinear, no antialiasing), crop its middle, normalise.

    Args:
        image: (H, W, 3), uint8 or float in [0, 1].
        height: target height in pixels.
        width: target width in pixels.

    Returns:
        (1, 3, 1, height, width) float32 in [-1, 1] on the image's device.
    """
    check_image(image)
    return _cover(image[None], height, width).transpose(0, 1)[None]


def resize_frames(frames: torch.Tensor, picks: Sequence[int], height: int, width: int,
                  dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`resize_and_crop` of some frames of a clip, a few at a time: beside the result hardly any memory is used.

    Args:
        frames: (F, H, W, 3), uint8 or float in [0, 1].
        picks: which frames, in order; a frame may come twice.
        height, width: target size in pixels.
        dtype: of the result.

    Returns:
        (1, 3, len(picks), height, width) in [-1, 1] on the frames' device.
    """
    result = torch.empty(1, 3, len(picks), height, width, dtype=dtype, device=frames.device)
    for start in range(0, len(picks), FRAMES_AT_ONCE):
        some = list(picks[start:start + FRAMES_AT_ONCE])
        result[0, :, start:start + len(some)] = _cover(frames[some], height, width).transpose(0, 1)
    return result


def _cover(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(F, H, W, 3) -> float32 (F, 3, height, width) in [-1, 1], see `resize_and_crop`."""
    pixels = frames.float()
    if frames.dtype != torch.uint8:
        pixels = pixels * 255.0
    rows, columns = frames.shape[1:3]
    scale = max(height / rows, width / columns)
    size = (math.ceil(rows * scale), math.ceil(columns * scale))
    resized = functional.interpolate(pixels.permute(0, 3, 1, 2), size=size, mode="bilinear",
                                     align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top:top + height, left:left + width] / 127.5 - 1.0


def check_image(image: torch.Tensor) -> None:
    """Refuse what is not one RGB picture."""
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise MediaError(f"the image has shape {tuple(image.shape)}", "(height, width, 3)",
                         "Give one RGB picture; drop the alpha channel and the batch dimension.")
    check_pixels(image, "the image")
