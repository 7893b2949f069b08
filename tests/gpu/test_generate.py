"""On a GPU: Enhance Prompt's recorded steps write what unrecorded ones write, in both precisions."""
from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)

from bench.generate import random_gemma
from ltx23_core.ops.record import Repeated
from ltx23_core.prompt import generate as module
from ltx23_core.prompt.generate import Sampling, generate

DEVICE = torch.device("cuda")


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def gemma(request):
    torch.manual_seed(0)
    return random_gemma(12, True, DEVICE, request.param)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("length", [5, 61, 64])
def test_recorded_and_not(gemma, temperature, length, monkeypatch):
    sampling = Sampling(stop=(-1,), seed=4, max_new_tokens=70, temperature=temperature)
    ids = list(range(1, length + 1))
    recorded = generate(gemma, ids, sampling)
    monkeypatch.setenv("LTX23_GRAPHS", "0")
    assert generate(gemma, ids, sampling) == recorded and len(recorded) == 70
    if gemma.norm.weight.dtype == torch.float32:
        monkeypatch.setattr(module, "steppable", lambda _gemma: False)
        assert generate(gemma, ids, sampling) == recorded


def test_a_step_is_recorded():
    x = torch.zeros(3, device=DEVICE)
    calls = []

    def add() -> torch.Tensor:
        calls.append(1)
        return x.add_(1)

    with torch.no_grad():
        work = Repeated(add, DEVICE)
        for count in range(1, 6):
            assert work().tolist() == [count] * 3
    assert len(calls) == 2, "once as usual, once to record"
