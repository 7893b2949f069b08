"""Each stage that can take more than a second counts its checks: a host's bar moves, and a cancel is heard inside."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ltx23_core import Overlay, Pipeline
from ltx23_core.media.audio import Audio
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.residency import LocalResidency


class Bars(LocalResidency):
    """Keeps (checks said, checks made) of each stage, and of its loads; may raise at a given check of one."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.bars: list[list[int]] = []
        self.loads: list[list[int]] = []
        self.inside, self.stop_at = False, 0

    def use(self, *components: Component, **options: Any) -> None:
        stages, self.bars = self.bars, self.loads
        super().use(*components, **options)
        self.bars = stages

    @contextmanager
    def counting(self, checks: int) -> Iterator[None]:
        self.bars.append([checks, 0])
        self.inside = True
        yield
        self.inside = False

    def check(self) -> None:
        if self.inside:
            self.bars[-1][1] += 1
            if self.bars[-1][1] == self.stop_at:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model(tiny_overlay: Overlay) -> Pipeline:
    return Pipeline(tiny_overlay, dtype="fp32", residency=Bars())


STAGES: dict[str, Callable[[Pipeline], object]] = {
    "text encoder": lambda model: model.encode("a boat", "a car"),
    "encode a clip": lambda model: model.encode_video(torch.zeros(1, 3, 17, 64, 64)),
    "encode sound": lambda model: model.encode_audio(Audio(torch.zeros(1, 2, 48_000), 48_000)),
    "upscale": lambda model: model.upscale(torch.zeros(2, model.transformer_config.video.in_channels, 2, 2, 2)),
    "decode sound": lambda model: model.decode_audio(torch.zeros(1, model.audio_latent_channels, 6, 16)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_bar_comes_to_its_end_and_a_cancel_is_heard_inside(model: Pipeline, stage: str) -> None:
    bars = model.residency
    bars.bars.clear()
    STAGES[stage](model)
    [(said, made)] = bars.bars
    assert bars.loads and all(made in (0, said) for said, made in bars.loads), "a tensor is a check"
    assert 4 <= said <= made <= 1.3 * said, "a block, and a piece or a tile, is a check"
    model._shared.contexts.clear()  # else the text is not encoded again
    bars.stop_at = said // 2
    try:
        with pytest.raises(KeyboardInterrupt):
            STAGES[stage](model)
    finally:
        bars.stop_at, bars.inside = 0, False
    assert bars.bars[-1][1] == said // 2
