"""Preparation of condition images (spec/07 §8): load, compress like a video frame, resize, crop, normalise."""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional

from ..errors import MediaError

MAX_CRF = 51  # the end of libx264's scale for 8-bit video
FRAMES_AT_ONCE = 8
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes of Pillow with more than 8 bits a pixel
LONGEST_SIDE = 16384  # of a picture for libx264
MOST_BEYOND = 8  # a scaled picture may have so many times the pixels that are kept of it


def load_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read an image file, upright and without alpha -> (H, W, 3) uint8. Raises `MediaError`."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in DEEP:
                image = _in_eight_bits(image)
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


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floats in [0, 1] in 8 bits: Pillow itself clips it at 255 instead of scaling it."""
    grey = np.asarray(image)
    white = 65535
    if image.mode == "F":
        white = 1
    if not (grey.min() >= 0 and grey.max() <= white):
        raise MediaError(f"the grey image has values from {grey.min()} to {grey.max()}", f"0 to {white}",
                         "Save it as a PNG with 8 or 16 bits.")
    if image.mode == "F":
        return Image.fromarray(np.rint(grey * 255).astype(np.uint8))
    return Image.fromarray((grey // 257).astype(np.uint8))


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
    if max(height, width) > LONGEST_SIDE:
        raise MediaError(f"the image is {width}x{height} pixels, too long to be compressed like a video frame",
                         f"at most {LONGEST_SIDE} pixels a side", "Scale the image down, or set compression to 0.")
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
                  dtype: torch.dtype = torch.float32, *,
                  check: Callable[[], None] | None = None) -> torch.Tensor:
    """`resize_and_crop` of some frames of a clip, a few at a time: beside the result hardly any memory is used.

    Args:
        frames: (F, H, W, 3), uint8 or float in [0, 1].
        picks: which frames, in order; a frame may come twice.
        height, width: target size in pixels.
        dtype: of the result.
        check: called before each few frames; what it raises ends the work.

    Returns:
        (1, 3, len(picks), height, width) in [-1, 1] on the frames' device.
    """
    result = torch.empty(1, 3, len(picks), height, width, dtype=dtype, device=frames.device)
    for start in range(0, len(picks), FRAMES_AT_ONCE):
        if check is not None:
            check()
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
    if size[0] * size[1] > MOST_BEYOND * height * width:
        return _cover_part(pixels, size, height, width) / 127.5 - 1.0
    resized = functional.interpolate(pixels.permute(0, 3, 1, 2), size=size, mode="bilinear",
                                     align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top:top + height, left:left + width] / 127.5 - 1.0


def _cover_part(pixels: torch.Tensor, size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """The middle of scaled pictures without the rest of them: a strip of 8192x2 pixels would become gigabytes.

    Args:
        pixels: (F, H, W, 3) float32.
        size: rows and columns of the whole scaled picture.
        height, width: of its middle.

    Returns:
        (F, 3, height, width) float32 in the pixels' range.
    """
    low, high, weight = _between(pixels.shape[2], size[1], width)
    low, high, weight = (each.to(pixels.device) for each in (low, high, weight))
    pixels = torch.lerp(pixels[:, :, low], pixels[:, :, high], weight[:, None])
    low, high, weight = _between(pixels.shape[1], size[0], height)
    low, high, weight = (each.to(pixels.device) for each in (low, high, weight))
    pixels = torch.lerp(pixels[:, low], pixels[:, high], weight[:, None, None])
    return pixels.permute(0, 3, 1, 2)


def _between(length: int, scaled: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For the middle `count` of `scaled` pixels: the two of `length` pixels that each lies between, and how far."""
    first = (scaled - count) // 2
    places = torch.arange(first, first + count, dtype=torch.float64)
    places = ((places + 0.5) * length / scaled - 0.5).clamp(0, length - 1)
    low = places.floor().long()
    return low, (low + 1).clamp(max=length - 1), (places - low).float()


def check_image(image: torch.Tensor) -> None:
    """Refuse what is not one RGB picture."""
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise MediaError(f"the image has shape {tuple(image.shape)}", "(height, width, 3)",
                         "Give one RGB picture; drop the alpha channel and the batch dimension.")
    check_pixels(image, "the image")
