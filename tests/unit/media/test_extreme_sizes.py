"""Pictures much wider or higher than what is kept of them, and with more bits than eight."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ltx23_core.errors import MediaError
from ltx23_core.media import image as images
from ltx23_core.media.image import compress_image, load_image, resize_and_crop, resize_frames


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [
    (20, 400, 64, 96), (400, 20, 64, 96), (7, 333, 96, 64), (1, 64, 32, 32), (64, 1, 32, 32)])
def test_only_the_middle_is_scaled_and_is_the_same(rows: int, columns: int, height: int, width: int) -> None:
    picture = torch.rand(rows, columns, 3, generator=torch.Generator().manual_seed(1))
    scale = max(height / rows, width / columns)
    size = (math.ceil(rows * scale), math.ceil(columns * scale))
    whole = functional.interpolate(picture.permute(2, 0, 1)[None] * 255, size=size, mode="bilinear",
                                   align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    want = whole[:, :, top:top + height, left:left + width]
    part = images._cover_part(picture[None] * 255, size, height, width)
    assert part.shape == want.shape and (part - want).abs().max() < 2e-2  # of 255: interpolate counts in float32


@pytest.mark.parametrize("shape", [(1, 2, 8192, 3), (1, 8192, 2, 3)])
def test_a_strip_does_not_become_gigabytes(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("the whole strip was scaled")

    monkeypatch.setattr(images.functional, "interpolate", never)
    clip = resize_frames(torch.full(shape, 0.5).expand(9, -1, -1, -1), range(9), 512, 768)
    assert clip.shape == (1, 3, 9, 512, 768)
    assert torch.allclose(clip, torch.zeros(()), atol=1e-5)


def test_ordinary_pictures_are_scaled_as_before() -> None:
    picture = torch.rand(270, 480, 3)
    size = (512, math.ceil(480 * 512 / 270))
    whole = functional.interpolate(picture.permute(2, 0, 1)[None] * 255.0, size=size, mode="bilinear",
                                   align_corners=False)
    left = (size[1] - 768) // 2
    want = whole[:, :, :, left:left + 768] / 127.5 - 1.0
    assert torch.equal(resize_and_crop(picture, 512, 768)[:, :, 0], want)


@pytest.mark.parametrize(("dtype", "value", "name", "want"), [
    (np.uint16, 32768, "a.png", 127), (np.uint16, 65535, "a.png", 255), (np.int32, 32768, "a.tiff", 127),
    (np.float32, 0.5, "a.tiff", 128), (np.float32, 1.0, "a.tiff", 255), (np.uint8, 77, "a.png", 77)])
def test_deep_grey_is_scaled_and_not_clipped(tmp_path: Path, dtype: type, value: float, name: str, want: int) -> None:
    Image.fromarray(np.full((4, 6), value, dtype)).save(tmp_path / name)
    assert torch.equal(load_image(tmp_path / name), torch.full((4, 6, 3), want, dtype=torch.uint8))


@pytest.mark.parametrize("value", [-0.5, 300.0, float("nan"), float("inf")])
def test_grey_beyond_white_is_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 6), value, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match="the grey image has values from"):
        load_image(tmp_path / "a.tiff")


def test_a_picture_too_long_for_the_encoder_is_refused_in_words() -> None:
    with pytest.raises(MediaError, match="20000x2 pixels, too long"):
        compress_image(torch.ones(2, 20000, 3), 33)
    assert compress_image(torch.ones(2, 20000, 3), 0).shape == (2, 20000, 3)
