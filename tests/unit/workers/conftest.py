"""Two workers on the CPU over the tiny model, kept warm by all tests that leave them alive."""
from __future__ import annotations

import pytest

from ltx23_core.workers.pipeline import WorkersPipeline


@pytest.fixture(scope="session")
def two_workers(tiny_overlay):
    pipe = WorkersPipeline(tiny_overlay, devices="2", device="cpu", dtype="fp32")
    yield pipe
    pipe.close()
