"""The key of a recording: equal for every step of a run, different wherever other work is done."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx23_core.models.transformer import graphs
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput, StreamTables
from ltx23_core.models.transformer.nag import NagContext
from ltx23_core.models.transformer.outline import outline, over
from ltx23_core.plan.guider import Nag


def given(tokens: int = 6, sigma: float = 0.7, text: int = 4, dtype: torch.dtype = torch.float32) -> tuple:
    """Arguments of a forward with fresh tensors."""
    level = torch.full((1,), sigma)
    stream = StreamInput(torch.randn(1, tokens, 3, dtype=dtype), level, level[:, None])
    context, other = torch.randn(1, text, 8), torch.randn(1, text, 8)
    tables = StreamTables((torch.randn(1, tokens, 4), torch.randn(1, tokens, 4)))
    return stream, None, [Pass(context, None), Pass(other, None)], (tables, None)


def key(value: object) -> object:
    return hash(outline(value, {})) and outline(value, {})


def test_steps_sigmas_and_prompts_share_a_key():
    assert key(given()) == key(given(sigma=0.2))


def _changed(value: tuple, **stream: object) -> tuple:
    return replace(value[0], **stream), *value[1:]


def _passes(*passes: Pass) -> tuple:
    value = given()
    return *value[:2], list(passes), value[3]


CONTEXT = torch.randn(1, 4, 8)
OTHERS = {
    "tokens": given(tokens=7), "text": given(text=5), "dtype": given(dtype=torch.bfloat16),
    "frozen": _changed(given(), enabled=False), "index": _changed(given(), index=torch.zeros(6, dtype=torch.int64)),
    "one pass": _passes(Pass(CONTEXT, None)), "shared prompt": _passes(Pass(CONTEXT, None), Pass(CONTEXT, None)),
    "perturbed": _passes(Pass(CONTEXT, None), Pass(CONTEXT.clone(), None, Perturbation(frozenset((1,))))),
    "perturbed elsewhere": _passes(Pass(CONTEXT, None), Pass(CONTEXT.clone(), None, Perturbation(frozenset((2,))))),
    "reads": _passes(Pass(CONTEXT, None), Pass(CONTEXT.clone(), None, reads=frozenset(("video",)))),
    "NAG": _passes(Pass(CONTEXT, None), Pass(CONTEXT.clone(), None, nag=(NagContext(Nag(5.0), CONTEXT), None))),
    "other NAG": _passes(Pass(CONTEXT, None), Pass(CONTEXT.clone(), None, nag=(NagContext(Nag(6.0), CONTEXT), None))),
}


def test_other_work_has_another_key():
    keys = [key(given()), *(key(value) for value in OTHERS.values())]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", OTHERS)
def test_the_same_arguments_over_other_tensors(name):
    value, tensors = OTHERS[name], {}
    found = outline(value, tensors)
    copies = {place: tensor.clone() for place, tensor in tensors.items()}
    again: dict[int, torch.Tensor] = {}
    assert outline(over(value, copies), again) == found
    assert [id(tensor) for tensor in again.values()] == [id(tensor) for tensor in copies.values()]


def test_nothing_is_recorded_without_a_gpu():
    with torch.no_grad():
        assert not graphs.wanted(torch.zeros(1, 6, 3), torch.zeros(3))
