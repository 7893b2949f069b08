"""Work is recorded under torch's own two allocators alone; what the second asks for is held by `tests/gpu`."""
from __future__ import annotations

import logging

import pytest
import torch

from ltx23_core.models.transformer.graphs import MOST_TOKENS, wanted
from ltx23_core.ops import record

CUDA = torch.device("cuda")


class OnCuda:
    """The device of a weight, which no machine of the tests needs to have."""

    device = CUDA


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    record._say_off.cache_clear()
    with torch.no_grad():
        yield


@pytest.mark.parametrize("asked", [None, "auto", "1", "0"])
@pytest.mark.parametrize(("backend", "right"), [("native", True), ("cudaMallocAsync", None), ("pluggable", False)])
def test_only_under_allocators_that_are_known(monkeypatch, backend, right, asked):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    monkeypatch.delenv("LTX23_GRAPHS", raising=False)
    if asked is not None:
        monkeypatch.setenv("LTX23_GRAPHS", asked)
    if right is None:
        right = asked == "1"
    right = right and asked != "0"
    assert record.allowed(CUDA) is right
    assert wanted(torch.empty(1, MOST_TOKENS, 1), OnCuda()) is right
    assert record.Repeated(lambda: torch.zeros(1), CUDA)._records is right


def test_long_forwards_are_not_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    assert not wanted(torch.empty(1, MOST_TOKENS + 1, 1), OnCuda())
    assert not wanted(torch.empty(2, MOST_TOKENS, 1), OnCuda())


def test_the_user_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "pluggable")
    with caplog.at_level(logging.INFO, logger="ltx23"):
        for _ in range(3):
            record.allowed(CUDA)
    assert len(caplog.messages) == 1 and "pluggable" in caplog.messages[0]


def test_the_driver_that_is_not_there_stops_nothing(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: record.ASYNC)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def missing(_name):
        raise OSError("no such library")

    monkeypatch.setattr(record.ctypes, "CDLL", missing)
    with caplog.at_level(logging.INFO, logger="ltx23"):
        record.trim(CUDA)
    assert "no such library" in caplog.text
