"""Two ranks with NCCL on the tiny model: what one GPU gives, recorded and not, an interrupt, and a rank that dies."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if torch.cuda.device_count() < 2:
    pytest.skip(f"{torch.cuda.device_count()} CUDA GPUs on this machine, two are needed", allow_module_level=True)

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.decode.tiles import auto_tiling
from ltx23_core.errors import WorkerError
from ltx23_core.workers.pipeline import WorkersPipeline

TINY = Path(__file__).resolve().parents[1] / "goldens" / "tiny"
SMALL = {"width": 256, "height": 128, "frames": 25, "steps": 4, "seed": 5}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    return materialize(TINY / "ltx-2.3-tiny.safetensors", TINY / "gemma",
                       output=tmp_path_factory.mktemp("overlay") / "tiny.ltx23.json")


@pytest.fixture(scope="module")
def one(overlay: Overlay) -> Pipeline:
    return Pipeline(overlay, device="cuda:0", dtype="fp32")


@pytest.fixture(scope="module")
def two(overlay: Overlay) -> Iterator[WorkersPipeline]:
    pipe = WorkersPipeline(overlay, devices="cuda:0,cuda:1", device="cuda:0", dtype="fp32")
    yield pipe
    pipe.close()


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def test_a_run_and_its_frames(one: Pipeline, two: WorkersPipeline) -> None:
    pair = two.encode("a boat on a lake", "noise")
    assert torch.equal(pair.positive.video, one.encode("a boat on a lake", "noise").positive.video)
    want, said = one.sample(pair, **SMALL), []
    two._tell = said.append
    begin = time.monotonic()
    for _ in range(2):  # forwards are recorded in the second one at the latest
        got = two.sample(pair, **SMALL)
        assert error(got.video, want.video) < 1e-3 and error(got.audio, want.audio) < 1e-3
    print(f"two runs on two GPUs: {time.monotonic() - begin:.1f} s, relative L2 {error(got.video, want.video):.1e}")
    print("\n".join(said))
    frames = torch.cat(list(two.decode_video(want.video, eight_bit=True)))
    assert torch.equal(frames, torch.cat(list(one.decode_video(want.video, auto_tiling(want.video.shape), True))))


def test_an_interrupt_and_a_rank_that_dies(two: WorkersPipeline) -> None:
    pair = two.encode("a boat on a lake", "noise")
    want = two.sample(pair, **SMALL)
    before = two.ranks.pids

    class Stop(Exception):
        pass

    def stop(info: object) -> None:
        if info.step == 3:
            raise Stop

    begin = time.monotonic()
    with pytest.raises(Stop):
        two.sample(pair, on_step=stop, **dict(SMALL, steps=300))
    interrupted = time.monotonic() - begin
    assert two.ranks.pids == before and torch.equal(two.sample(pair, **SMALL).video, want.video)

    def kill(info: object) -> None:
        if info.step == 3:
            os.kill(two.ranks.pids[1], signal.SIGKILL)

    begin = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker 2 of 2 \(cuda:1\) ended by signal 9"):
        two.sample(pair, on_step=kill, **dict(SMALL, steps=300))
    died = time.monotonic() - begin
    assert torch.equal(two.sample(pair, **SMALL).video, want.video)
    print(f"interrupted after {interrupted:.1f} s, a killed rank told after {died:.1f} s, then a right run")
    assert died < 30
