"""A step that needs more memory than was planned: one more try with less of the weights, then an error with numbers."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ltx23_core import Pipeline, materialize
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.runtime import second_try
from ltx23_core.runtime.residency import LocalResidency
from tests.goldens.harness import CHECKPOINT, GEMMA

RUN = {"recipe": "one_stage", "steps": 2, "width": 64, "height": 64, "frames": 9, "seed": 3}
CPU = torch.device("cpu")


def pipeline(folder: Path, memory: str = "auto") -> Pipeline:
    overlay = materialize(CHECKPOINT, GEMMA, output=folder / "overlay.json")
    return Pipeline(overlay, device="cpu", dtype="fp32", residency=LocalResidency(CPU, memory=memory))


def failing(pipe: Pipeline, while_resident: Callable[[int], bool]) -> list[int]:
    """Let a block fail as the allocator does, by how many blocks are streamed; returns that number at each failure."""
    component, failures = pipe.component("transformer"), []

    def fail(*_: object) -> None:
        if while_resident(component.streamed):
            failures.append(component.streamed)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 440.00 MiB.")

    component.block_modules[-1].register_forward_pre_hook(fail)
    return failures


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_try, "LEAST", 1000)  # the tiny model has 4 blocks of a few hundred kilobytes
    monkeypatch.setattr(second_try, "LESS", 1e-6)


def test_a_failing_step_is_made_again_with_blocks_streamed(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    context = pipe.encode("a boat on a lake", "noise")
    want = pipe.sample(context, **RUN)
    failures = failing(pipe, lambda streamed: streamed == 0)
    got = pipe.sample(context, **RUN)
    assert failures == [0]
    assert pipe.component("transformer").streamed > 0
    assert torch.equal(got.video, want.video) and torch.equal(got.audio, want.audio)


@pytest.mark.parametrize("memory", ["auto", "resident"])
def test_then_an_error_with_the_numbers(tmp_path: Path, memory: str) -> None:
    pipe = pipeline(tmp_path, memory)
    context = pipe.encode("a boat on a lake", "noise")
    pipe.sample(context, **RUN)
    failures = failing(pipe, lambda streamed: True)
    with pytest.raises(OutOfMemoryError, match="transformer with .* of activations need"):
        pipe.sample(context, **RUN)
    assert len(failures) == (2 if memory == "auto" else 1)
