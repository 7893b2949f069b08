"""Equal ways of one operation: the same numbers up to rounding, and what the environment asks for."""
from __future__ import annotations

import pytest
import torch

from bench.models import Work, config_22b, random_transformer
from ltx23_core.config import TransformerConfig
from ltx23_core.ops import pick as ways


@pytest.mark.parametrize("other", [{"gates": "apart"}, {"gelu": "kernel"}, {"sound": "always"}])
@torch.no_grad()
def test_other_ways_agree(other):
    raw, device = config_22b(tiny=True), torch.device("cpu")
    model = random_transformer(raw, device, torch.float32)
    call = Work.make("tiny", TransformerConfig.from_dict(raw), device, torch.float32, 32).ours(model, guided=True)
    want = call()
    with ways.taking(**other):
        got = call()
    for one, two in zip(want, got, strict=True):
        for a, b in zip(one, two, strict=True):
            assert (a - b).norm() < 2e-6 * a.norm()
            assert torch.equal(a, b) or "gates" in other, "on a CPU only products differ"
    assert all(torch.equal(a, b) for one, two in zip(want, call(), strict=True) for a, b in zip(one, two, strict=True))


def test_the_environment_asks(monkeypatch):
    assert {name: ways.way(name) for name in ways.WAYS} == {name: values[0] for name, values in ways.WAYS.items()}
    monkeypatch.setenv("LTX23_WAYS", "gates=apart,gelu=nothing,other=1,sound")
    monkeypatch.setattr(ways, "_ways", ways._asked())
    assert (ways.way("gates"), ways.way("gelu"), ways.way("sound")) == ("apart", "epilogue", "recorded")
