"""What torch's allocator holds for a forward that first takes pieces in which all fits, against what is planned."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.memory.estimates import WORKSPACE, sampling_bytes
from ltx23_core.models.transformer import model as model_module
from ltx23_core.models.transformer.model import Transformer
from tests.support.allocator import Allocator, Traced
from tests.support.live_bytes import like_a_device

from . import test_estimates
from .test_estimates import CASES, CONFIG, SIZES, live

LARGE_ENOUGH = [case for case in CASES if case[0] != "small"]  # small tensors are in no pieces


def reserved(monkeypatch: pytest.MonkeyPatch, model: Transformer, size: str,
             *call: int) -> tuple[int, tuple[int, int]]:
    """Most bytes of segments over two calls of `test_estimates.live`, and the tokens."""
    traced = Traced()
    monkeypatch.setattr(test_estimates, "LiveBytes", lambda: traced)
    _, tokens = live(model, SIZES[size], *call)
    return Allocator().run(traced.events).run(traced.events).most, tokens


@pytest.mark.parametrize(("size", "passes", "batch", "timesteps", "nag", "extra"), LARGE_ENOUGH)
def test_a_forward_stays_in_its_pieces(monkeypatch: pytest.MonkeyPatch, size: str, passes: int, batch: int,
                                       timesteps: int, nag: bool, extra: int) -> None:
    with torch.device("meta"):
        model = Transformer(CONFIG).bfloat16().requires_grad_(False)
    like_a_device(model, monkeypatch, fused=True)
    held, tokens = reserved(monkeypatch, model, size, passes, batch, timesteps, nag, extra)
    planned = sampling_bytes(CONFIG, *tokens, passes, batch, 2, nag=nag) - WORKSPACE
    assert held <= planned <= 1.1 * held + 30e6, (held, planned)
    monkeypatch.setattr(model_module, "set_aside", lambda *_: None)
    without, _ = reserved(monkeypatch, model, size, passes, batch, timesteps, nag, extra)
    assert held <= 1.03 * without, "by luck alone it would be as little"
