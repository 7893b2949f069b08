"""The two forms of an operation in turn: torch's, and Triton's where it can run."""
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

from ltx23_core.ops import pick


def need_triton() -> None:
    """Skip where Triton's forms cannot run: compiled they need a GPU, and its interpreter has to be asked for."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton needs a GPU, or TRITON_INTERPRET=1 before it is imported")


@pytest.fixture(params=["torch", "triton"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """"torch", then "triton"; the operations take it. Test files name this module as their plugin: on a lent GPU no
    conftest is read."""
    if request.param == "triton":
        need_triton()
    pick.choose(request.param)
    assert pick.prepare() == (request.param == "triton")
    yield request.param
    pick.choose("auto")
