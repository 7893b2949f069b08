"""Workers that die, stop answering or are left behind: a sentence, no orphan, and the next prompt is right."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from ltx23_core.errors import RequestError, WorkerError
from ltx23_core.workers import pool
from ltx23_core.workers.pipeline import WorkersPipeline, device_names
from ltx23_core.workers.worker import Call
from tests.support.tiny_model import ROOT, environment

SMALL = {"width": 96, "height": 64, "frames": 9, "steps": 2}
SECONDS = 200  # more than anything takes on a busy machine, and less than a wait without an end
MANY = 2000  # steps that nobody waits for


@pytest.fixture
def pipe(tiny_overlay):
    made = WorkersPipeline(tiny_overlay, devices="2", device="cpu", dtype="fp32")
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def gone(pids, seconds=SECONDS):
    end = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(psutil.pid_exists, pids))


def killing(pipe, rank, when):
    """A callback that kills a rank at its so-and-so-manieth call."""
    calls = []

    def kill(*_):
        calls.append(1)
        if len(calls) == when:
            os.kill(pipe.ranks.pids[rank], signal.SIGKILL if os.name == "posix" else signal.SIGTERM)

    return kill


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_in_a_step(pipe, pair, tiny_pipeline, rank):
    want = pipe.sample(pair, seed=3, **SMALL)
    before, begin = pipe.ranks.pids, time.monotonic()
    with pytest.raises(WorkerError, match=rf"worker {rank + 1} of 2 \(cpu\) ended .* during run"):
        pipe.sample(pair, on_step=killing(pipe, rank, 2), **dict(SMALL, steps=MANY))
    assert time.monotonic() - begin < SECONDS and gone(before)
    got = pipe.sample(pair, seed=3, **SMALL)
    assert torch.equal(got.video, want.video) and set(pipe.ranks.pids).isdisjoint(before)


def test_a_rank_killed_in_a_decoding(pipe):
    latent = torch.randn(1, 8, 400, 2, 3, generator=torch.Generator().manual_seed(1))
    kill, begin = killing(pipe, 1, 1), time.monotonic()
    with pytest.raises(WorkerError, match="during decode_video"):
        for chunk in pipe.decode_video(latent):
            kill(chunk)
    assert time.monotonic() - begin < SECONDS
    assert sum(map(len, pipe.decode_video(latent[:, :, :3]))) == 17


def test_a_rank_killed_while_it_loads(pipe, pair):
    """The first call starts the workers; one goes as soon as it is there."""
    checks = []

    def check():
        checks.append(1)
        if len(checks) == 5:
            os.kill(pipe.ranks.pids[1], signal.SIGKILL if os.name == "posix" else signal.SIGTERM)

    pipe.residency._check = check
    begin = time.monotonic()
    with pytest.raises(WorkerError, match="worker 2 of 2"):
        pipe.sample(pair, **SMALL)
    assert time.monotonic() - begin < SECONDS
    assert pipe.sample(pair, **SMALL).video is not None


def test_ranks_can_form_groups_as_long_as_they_live(tiny_overlay, pair):
    """The place where they met outlasts their start (NCCL meets there at its first exchange), and goes with them."""
    made = WorkersPipeline(tiny_overlay, devices="4", device="cpu", dtype="fp32")
    made.sample(pair, **SMALL)
    folder = Path(made.ranks._folder.name)
    assert (folder / "meeting").exists()
    made.close()
    assert not folder.exists()


def test_between_two_prompts(pipe, pair):
    pipe.sample(pair, **SMALL)
    os.kill(pipe.ranks.pids[0], signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    pipe.ranks._processes[0].process.wait(SECONDS)  # all its threads are gone, too
    assert pipe.sample(pair, **SMALL).video is not None, "started anew before anything was asked"


@pytest.mark.skipif(os.name != "posix", reason="a process is stopped by a signal")
def test_a_rank_that_does_not_answer_an_interrupt(pipe, pair, monkeypatch):
    monkeypatch.setattr(pool, "STOP_SECONDS", 2.0)
    pipe.sample(pair, **SMALL)
    before = pipe.ranks.pids

    class Stop(Exception):
        pass

    def stop(info):
        os.kill(before[1], signal.SIGSTOP)
        raise Stop

    begin = time.monotonic()
    with pytest.raises(Stop):
        pipe.sample(pair, on_step=stop, **dict(SMALL, steps=MANY))
    assert time.monotonic() - begin < SECONDS and gone(before)
    assert pipe.sample(pair, **SMALL).video is not None


def test_a_rank_that_fails_while_the_others_wait_for_it(pipe, pair, monkeypatch):
    """Its error is what the user hears; the others, in an exchange that never ends, are ended soon."""
    want = pipe.sample(pair, **SMALL)
    before, say = pipe.ranks.pids, pipe.ranks._say

    def say_differently(message):
        """The second rank is given latents that no model of this size has."""
        if not isinstance(message, Call):
            return say(message)
        for rank, each in enumerate(pipe.ranks._processes):
            other = replace(message, arguments=(torch.zeros(1, 5, 2, 2, 3), *message.arguments[1:]))
            each.pipe.send(other if rank else message)
        return None

    monkeypatch.setattr(pipe.ranks, "_say", say_differently)
    begin = time.monotonic()
    with pytest.raises(RequestError, match=r"the video latent has shape \(1, 5"):
        list(pipe.decode_video(torch.zeros(1, 8, 13, 2, 3)))
    assert time.monotonic() - begin < SECONDS and gone(before)
    monkeypatch.undo()
    assert torch.equal(pipe.sample(pair, **SMALL).video, want.video)


STARTER = """
import sys, time
from ltx23_core.workers.pipeline import WorkersPipeline
pipe = WorkersPipeline(sys.argv[1], devices="2", device="cpu", dtype="fp32")
pair = pipe.encode("a boat", "noise")
def say(info):
    print("pids", *pipe.ranks.pids, flush=True)
pipe.sample(pair, on_step=say, width=96, height=64, frames=9, steps=500)
"""


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_workers_end_with_the_process_that_started_them(tiny_overlay, how):
    started = subprocess.Popen([sys.executable, "-c", STARTER, str(tiny_overlay.path)], cwd=ROOT, env=environment(),
                               stdout=subprocess.PIPE, text=True)
    line = started.stdout.readline()
    assert line.startswith("pids"), line
    pids = [int(word) for word in line.split()[1:]]
    assert all(map(psutil.pid_exists, pids))
    getattr(started, how)()
    started.wait(SECONDS)
    assert gone(pids)


def test_devices_by_name():
    cpu = torch.device("cpu")
    assert device_names("auto", cpu) == ("cpu",) and device_names("3", cpu) == ("cpu",) * 3
    assert device_names("cuda:0, cuda:2", cpu) == ("cuda:0", "cuda:2")
    for wrong in ("0", "many", "-1", "", "cuda:x", "2.5"):
        with pytest.raises(RequestError, match="devices is"):
            device_names(wrong, cpu)
