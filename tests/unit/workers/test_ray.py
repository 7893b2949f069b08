"""Workers on a Ray cluster of this computer; needs the optional extra."""
from __future__ import annotations

import sys

import pytest
import torch

from ltx23_core.decode.tiles import auto_tiling
from ltx23_core.errors import RequestError, WorkerError
from ltx23_core.workers.opening import open_pipeline

SMALL = {"width": 96, "height": 64, "frames": 9, "steps": 2}


def test_without_ray_the_missing_package_is_named(tiny_overlay, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match="Ray is not installed"):
        open_pipeline(tiny_overlay, "ray://local", device="cpu", dtype="fp32")


@pytest.mark.parametrize("wrong", ["ray://", "ray://a b", "ray://host/x", "ray://host:port"])
def test_an_address_that_cannot_be(tiny_overlay, wrong):
    with pytest.raises(RequestError, match="devices is"):
        open_pipeline(tiny_overlay, wrong, device="cpu", dtype="fp32")


@pytest.fixture
def on_ray(tiny_overlay):
    pytest.importorskip("ray", reason="the optional extra ray is not installed")
    pipe = open_pipeline(tiny_overlay, "ray://local/2", device="cpu", dtype="fp32")
    yield pipe
    pipe.close()


def test_actors_give_what_one_process_gives(on_ray, tiny_pipeline):
    pair = on_ray.encode("a boat on a lake", "noise")
    want = tiny_pipeline.sample(pair, seed=4, **SMALL)
    steps = []
    got = on_ray.sample(pair, seed=4, on_step=steps.append, **SMALL)
    assert len(steps) == 2 and (got.video - want.video).abs().max() <= 2e-5 * want.video.abs().max()
    frames = torch.cat(list(on_ray.decode_video(want.video)))
    assert torch.equal(frames, torch.cat(list(tiny_pipeline.decode_video(want.video, auto_tiling(want.video.shape)))))

    def kill(info):
        on_ray.ranks._ray.kill(on_ray.ranks._processes[1].process.actor)

    with pytest.raises(WorkerError, match="worker 2 of 2"):
        on_ray.sample(pair, on_step=kill, **dict(SMALL, steps=60))
    again = on_ray.sample(pair, seed=4, **SMALL)
    assert torch.equal(again.video, got.video)


def test_a_cluster_that_is_not_there(tiny_overlay):
    ray = pytest.importorskip("ray", reason="the optional extra ray is not installed")
    ray.shutdown()
    with pytest.raises(WorkerError, match="no Ray cluster answers"):
        open_pipeline(tiny_overlay, "ray://127.0.0.1:1", device="cpu", dtype="fp32")
