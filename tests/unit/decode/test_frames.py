"""Frames for a file: the bytes of the float way, refused where the picture is broken."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.decode.frames import to_frames
from ltx23_core.errors import MediaError
from ltx23_core.media import to_uint8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frames", [0, 1, 5])
def test_the_bytes_of_the_float_way(dtype, frames):
    pixels = (1.3 * torch.randn(3, frames, 6, 10, generator=torch.Generator().manual_seed(1))).to(dtype)
    got = to_frames(pixels, eight_bit=True)
    assert got.dtype == torch.uint8 and got.shape == (frames, 6, 10, 3) and got.is_contiguous()
    assert torch.equal(got, to_uint8(to_frames(pixels)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 4])
def test_a_broken_picture_is_refused(bad, place):
    pixels = torch.zeros(3, 5, 4, 6)
    pixels[1, place, 2, 3] = bad
    with pytest.raises(MediaError, match="NaN or infinity"):
        to_frames(pixels, eight_bit=True)


def test_a_pipeline_decodes_the_same_to_both(tiny_pipeline):
    channels = 8
    latent = torch.randn(1, channels, 3, 2, 3, generator=torch.Generator().manual_seed(2))
    whole = torch.cat(list(tiny_pipeline.decode_video(latent)))
    assert torch.equal(torch.cat(list(tiny_pipeline.decode_video(latent, eight_bit=True))), to_uint8(whole))
