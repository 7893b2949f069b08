"""Video VAE against diffusers: encoding, and decoding in one piece. Tiling has another blending scheme there."""
from __future__ import annotations

import pytest
import torch

from .renames import renamed, video_decoder, video_encoder
from .support import DIFFUSERS, randn, random_module, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import LTX2Pipeline
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import (
    LTX2VideoCausalConv3d,
    LTX2VideoDecoder3d,
    LTX2VideoEncoder3d,
)

KINDS = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}
# latent channels, patch, base channels (encoder, decoder), then for both, from the pixel side:
# layers of each residual stack, and (kind, multiplier) of the steps between them
SIZES = {
    "three steps": (6, 4, (8, 12), ((2, 1, 3, 1), (("all", 1), ("all", 4), ("all", 2))),
                    ((1, 3, 1, 2), (("all", 3), ("all", 1), ("all", 2)))),
    "five steps": (5, 4, (4, 16),
                   ((1, 1, 2, 1, 1, 1), (("time", 2), ("space", 2), ("time", 1), ("all", 2), ("space", 1))),
                   ((1, 2, 1, 1, 1, 2), (("space", 1), ("time", 2), ("all", 2), ("space", 1), ("time", 1)))),
    "patch 2": (9, 2, (12, 10), ((1, 2, 1, 1, 1), (("space", 4), ("all", 1), ("all", 2), ("all", 1))),
                ((2, 1, 1, 1, 1), (("all", 2), ("all", 2), ("space", 1), ("all", 1)))),
}


def config(size: str) -> dict:
    """``config.vae`` in the official form."""
    channels, patch, base, encoder, decoder = SIZES[size]

    def blocks(stacks: tuple, steps: tuple, suffix: str) -> list:
        listed: list = [["res_x", {"num_layers": stacks[0]}]]
        for (kind, multiplier), layers in zip(steps, stacks[1:], strict=True):
            listed += [[f"compress_{kind}{suffix}", {"multiplier": multiplier}], ["res_x", {"num_layers": layers}]]
        return listed

    return {"latent_channels": channels, "patch_size": patch, "encoder_base_channels": base[0],
            "decoder_base_channels": base[1], "encoder_blocks": blocks(*encoder, "_res"),
            "decoder_blocks": blocks(*decoder, "")}


def widths(base: int, steps: tuple) -> list[int]:
    """Channels of each residual stack, from the pixel side."""
    listed = [base]
    for _, multiplier in steps:
        listed.append(listed[-1] * multiplier)
    return listed


def statistics(state: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Take mean and std of the latents out of a state dict."""
    return state.pop("per_channel_statistics.mean-of-means"), state.pop("per_channel_statistics.std-of-means")


@pytest.mark.parametrize("size", SIZES)
def test_encoder(size: str) -> None:
    channels, patch, base, (stacks, steps), _ = SIZES[size]
    ours = random_module("video_encoder", config(size))
    theirs = LTX2VideoEncoder3d(
        out_channels=base[0], block_out_channels=tuple(widths(base[0], steps)[1:]), layers_per_block=stacks,
        down_block_types=("LTX2VideoDownBlock3D",) * len(steps), spatio_temporal_scaling=(True,) * len(steps),
        downsample_type=tuple(KINDS[kind] for kind, _ in steps), patch_size=patch).eval()
    # diffusers has one number for latent channels and base channels; the last convolution alone tells them apart.
    theirs.conv_out = LTX2VideoCausalConv3d(widths(base[0], steps)[-1], channels + 1, kernel_size=3, stride=1,
                                            spatial_padding_mode="zeros")
    state = ours.state_dict()
    mean, std = statistics(state)
    theirs.load_state_dict(renamed(state, video_encoder(len(steps))), strict=True)
    for name, shape in (("image", (2, 3, 1, 64, 32)), ("video", (1, 3, 17, 32, 96))):
        pixels = randn(1, *shape).clamp(-1, 1)
        want = LTX2Pipeline._normalize_latents(theirs(pixels)[:, :channels], mean, std)
        same(f"{size}: latent of {name}", ours(pixels), want)


@pytest.mark.parametrize("size", SIZES)
def test_decoder(size: str) -> None:
    channels, patch, base, _, (stacks, steps) = SIZES[size]
    ours = random_module("video_decoder", config(size))
    theirs = LTX2VideoDecoder3d(
        in_channels=channels, block_out_channels=tuple(widths(base[1], steps)[1:]), layers_per_block=stacks,
        spatio_temporal_scaling=(True,) * len(steps), upsample_type=tuple(KINDS[kind] for kind, _ in reversed(steps)),
        upsample_factor=tuple(multiplier for _, multiplier in steps), upsample_residual=False, inject_noise=False,
        patch_size=patch, is_causal=False, spatial_padding_mode="zeros").eval()
    state = ours.state_dict()
    mean, std = statistics(state)
    theirs.load_state_dict(renamed(state, video_decoder(len(steps))), strict=True)
    for name, shape in (("image", (2, channels, 1, 2, 1)), ("video", (1, channels, 3, 1, 3))):
        latent = randn(2, *shape)
        want = theirs(LTX2Pipeline._denormalize_latents(latent, mean, std))
        same(f"{size}: pixels of {name}", ours(latent), want)
