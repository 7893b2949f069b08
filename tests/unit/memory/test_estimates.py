"""Estimates against the bytes that are alive at most, counted while the true code runs on the meta device."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.generate_weights import manifest_22b
from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.memory.estimates import WORKSPACE, sampling_bytes
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.models.transformer.nag import NagContext
from ltx23_core.plan.guider import Nag
from tests.support.live_bytes import LiveBytes, like_a_device

CONFIG = replace(TransformerConfig.from_dict(json.loads(manifest_22b()[1]["config"])["transformer"]), layers=6)
SIZES = {"small": (256, 256, 25), "a": (768, 512, 121), "b": (1280, 704, 121), "c": (1920, 1088, 121)}
TEXT = 1024


def random(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def live(model: Transformer, size: tuple[int, int, int], passes: int, batch: int, timesteps: int, nag: bool,
         extra: int) -> tuple[int, tuple[int, int]]:
    """Most bytes of one call and of what its run keeps; tokens. ``extra``: tokens of conditions."""
    tokens = video_grid(*size).tokens + extra, audio_latent_length(size[2], 24.0)
    sigma = torch.empty(batch, device="meta")
    with torch.no_grad(), LiveBytes() as counted:
        streams = []
        for count, config in zip(tokens, (CONFIG.video, CONFIG.audio), strict=True):
            index = None if timesteps == 1 else torch.zeros(count, dtype=torch.int64, device="meta")
            streams.append(StreamInput(random(batch, count, config.in_channels), sigma,
                                       torch.empty(batch, timesteps, device="meta"), index))
        v, a, nv, na = (random(batch, TEXT, width) for width in (CONFIG.video.width, CONFIG.audio.width) * 2)
        pushed = (NagContext(Nag(), nv), NagContext(Nag(), na)) if nag else (None, None)
        skip = frozenset((3,))
        every = [Pass(v, a, nag=pushed), Pass(nv, na), Pass(v, a, Perturbation(skip, skip)),
                 Pass(v, a, Perturbation(cross=True))]
        positions = (torch.empty(1, axes, count, 2, device="meta") for axes, count in zip((3, 1), tokens, strict=True))
        tables = model.tables(*positions, torch.bfloat16)
        counted.peak = counted.now
        model(*streams, every[:passes], tables)
    return counted.peak, tokens


CASES = [*((size, passes, 1, 1, False, 0) for size in "ab" for passes in (1, 2, 3, 4)), ("c", 4, 1, 1, False, 0),
         *(("small", passes, 1, 1, False, 0) for passes in (1, 4))] + [
    ("a", 4, 1, 3, False, 5 * 384), ("b", 1, 1, 2, False, 7040), ("a", 1, 1, 1, True, 0), ("a", 2, 1, 1, True, 0),
    ("a", 4, 3, 1, False, 0)]


@pytest.mark.parametrize("fused", [True, False], ids=["triton", "torch"])
@pytest.mark.parametrize(("size", "passes", "batch", "timesteps", "nag", "extra"), CASES)
def test_sampling(monkeypatch: pytest.MonkeyPatch, size: str, passes: int, batch: int, timesteps: int, nag: bool,
                  extra: int, fused: bool) -> None:
    with torch.device("meta"):
        model = Transformer(CONFIG).bfloat16().requires_grad_(False)
    like_a_device(model, monkeypatch, fused)
    peak, tokens = live(model, SIZES[size], passes, batch, timesteps, nag, extra)
    guess = sampling_bytes(CONFIG, *tokens, passes, batch, 2, nag=nag, fused=fused) - WORKSPACE
    assert peak <= guess <= 1.1 * peak + 30e6, (peak / 1e9, guess / 1e9, guess / peak)

