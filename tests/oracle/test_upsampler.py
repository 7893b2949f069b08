"""Latent upscalers against diffusers: every resampler, other widths and depths."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.models.latent_upsampler import upsample

from .renames import renamed
from .support import DIFFUSERS, randn, random_module, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import LTX2Pipeline
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

# latent channels, width, blocks, space, time, scale, rational, latent size
SIZES = {
    "x2": (5, 32, 2, True, False, 2.0, False, (3, 2, 5)),
    "x2 rational": (7, 64, 1, True, False, 2.0, True, (1, 3, 4)),
    "x1.5": (3, 96, 1, True, False, 1.5, True, (2, 4, 6)),
    "x4": (4, 32, 3, True, False, 4.0, True, (2, 2, 3)),
    "time x2": (6, 64, 2, False, True, 1.0, False, (4, 3, 2)),
    "space and time": (4, 32, 1, True, True, 2.0, False, (3, 2, 3)),
}


@pytest.mark.parametrize("size", SIZES)
def test_upsampler(size: str) -> None:
    channels, width, blocks, space, time, scale, rational, shape = SIZES[size]
    sizes = {"in_channels": channels, "mid_channels": width, "num_blocks_per_stage": blocks, "dims": 3,
             "spatial_upsample": space, "temporal_upsample": time}
    ours = random_module("upsampler_x2", sizes | {"spatial_scale": scale, "rational_resampler": rational})
    theirs = LTX2LatentUpsamplerModel(**sizes, rational_spatial_scale=scale, use_rational_resampler=rational).eval()
    theirs.load_state_dict(renamed(ours.state_dict()), strict=True)
    latent, mean, std = randn(1, 2, channels, *shape), randn(2, channels), 1 + randn(3, channels).abs()
    same(f"{size}: raw", ours(latent), theirs(latent))
    want = LTX2Pipeline._normalize_latents(theirs(LTX2Pipeline._denormalize_latents(latent, mean, std)), mean, std)
    same(f"{size}: normalised", upsample(ours, latent, mean, std), want)


def test_every_scale_is_there() -> None:
    """A scale that diffusers knows must not be one that the library refuses."""
    from diffusers.pipelines.ltx2.latent_upsampler import RATIONAL_RESAMPLER_SCALE_MAPPING
    for scale in RATIONAL_RESAMPLER_SCALE_MAPPING:
        ours = random_module("upsampler_x2", {
            "in_channels": 2, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, "spatial_upsample": True,
            "temporal_upsample": False, "spatial_scale": scale, "rational_resampler": True})
        assert ours(torch.zeros(1, 2, 1, 4, 4)).shape[-1] == 4 * scale
