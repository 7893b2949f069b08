"""A decoder that is stopped half-way leaves its caller's grad mode alone."""
from __future__ import annotations

import pytest
import torch

from ltx23_core import Pipeline
from ltx23_core.decode.tiles import AxisTiling, Tiling

TILES = Tiling(AxisTiling(16, 8))


@pytest.mark.parametrize("mode", [True, False])
def test_the_callers_grad_mode_is_its_own_between_chunks(tiny_pipeline: Pipeline, mode: bool) -> None:
    latent = torch.zeros(1, 8, 4, 2, 2).requires_grad_(True)
    with torch.set_grad_enabled(mode):
        chunks = tiny_pipeline.decode_video(latent, TILES)
        first = next(chunks)
        assert torch.is_grad_enabled() == mode and not first.requires_grad
        made = torch.ones(2, requires_grad=True) * 2
        assert made.requires_grad == mode
        chunks.close()
        assert torch.is_grad_enabled() == mode
        whole = list(tiny_pipeline.decode_video(latent, TILES))
        assert len(whole) > 1 and torch.is_grad_enabled() == mode


def test_a_generator_left_alone_changes_nothing(tiny_pipeline: Pipeline) -> None:
    with torch.enable_grad():
        chunks = [tiny_pipeline.decode_video(torch.zeros(1, 8, 4, 2, 2), TILES) for _ in range(2)]
        for each in chunks:
            next(each)
    assert torch.is_grad_enabled()
    del chunks, each
    assert torch.is_grad_enabled()
