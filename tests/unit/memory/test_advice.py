"""What is advised about weights that must be streamed: by the plan and by the choice of files alike, and true."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.cards import need_of, sparse_overlay
from ltx23_core import Overlay, Pipeline
from ltx23_core.memory.advice import smaller_weights
from ltx23_core.memory.room import Need, fitting
from ltx23_core.overlay.shelf import score
from ltx23_core.overlay.weight_dtype import ADVISED, with_weight_dtype
from ltx23_core.plan.settings import Settings
from ltx23_core.runtime.residency import LocalResidency
from tests.support.folder import item

WORK = score.STAGES["transformer",]
BUDGETS = (3.2, 4, 6, 8, 10, 12, 14, 16, 20, 21, 22, 24, 30, 38, 40)  # GB


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return sparse_overlay(tmp_path_factory.mktemp("sparse"), "bf16")


@pytest.fixture(scope="module")
def needs(stored: Overlay) -> dict[str, Need]:
    """As they are when somebody has chosen each weight_dtype."""
    return {form: need_of(with_weight_dtype(stored, form)) for form in ADVISED}


def advice_of(overlay: Overlay, room: float, memory: str = "auto") -> str:
    """What a pipeline with so much room says."""
    residency = LocalResidency(torch.device("cpu"), int(room), memory=memory)
    return Pipeline(overlay, residency=residency, dtype="bf16")._smaller_weights(WORK)


@pytest.mark.parametrize("gigabytes", BUDGETS)
def test_it_is_what_the_loader_would_do(stored: Overlay, needs: dict[str, Need], gigabytes: float) -> None:
    room = gigabytes * 1e9 - WORK
    now, told = fitting(need_of(stored), room), smaller_weights(need_of(stored), lambda: needs, room)
    print(gigabytes, told)
    if now is None or not now.streamed:
        assert not told
        return
    placed = {form: fitting(need, room) for form, need in needs.items()}
    whole = [form for form, place in placed.items() if place is not None and not place.streamed]
    if whole:
        assert told.startswith(f"weight_dtype {whole[0]} would keep it whole on the device")
        return
    fewer = {form: place.streamed for form, place in placed.items() if place is not None}
    best = min(fewer.values(), default=now.streamed)
    assert (f"would stream {best} of 48 blocks instead of {now.streamed}" in told) == (best < now.streamed)


def test_plan_and_choice_of_files_say_the_same(stored: Overlay) -> None:
    """From a header alone, and from what would be loaded."""
    who = item("whole", "checkpoints/ltx-2.3-22b-dev.safetensors").identity
    for gigabytes in BUDGETS:
        room = int(gigabytes * 1e9)
        assert score.smaller(who, room) == advice_of(stored, room), gigabytes
    assert "weight_dtype" in score.smaller(who, int(24e9))


@pytest.mark.parametrize("memory", ["stream", "resident"])
def test_who_wants_it_so_is_not_advised(stored: Overlay, memory: str) -> None:
    assert advice_of(stored, 16e9) and not advice_of(stored, 16e9, memory)


@pytest.mark.parametrize("form", ["fp8", "Q8_0"])
def test_what_is_quantised_in_its_file_is_not_quantised_again(form: str, tmp_path: Path) -> None:
    assert not advice_of(sparse_overlay(tmp_path, form), 8e9)


def test_a_run_s_line_ends_with_it(stored: Overlay) -> None:
    line = {}
    for gigabytes in (16, 80):
        residency = LocalResidency(torch.device("cpu"), int(gigabytes * 1e9))
        pipe = Pipeline(stored, residency=residency, dtype="bf16")
        plan = pipe.plan(Settings(width=768, height=512, frames=121))
        line[gigabytes] = pipe.memory_line(plan.decision)
    print(*line.values(), sep="\n")
    assert "transformer streamed 32 of 48 blocks" in line[16]
    assert line[16].endswith(". weight_dtype Q4_K would keep it whole on the device, in 11.7 GB (lossy: other results)")
    assert line[80] == "80.0 GB free: decode 32 frames at a time; peak 39.1 GB"
