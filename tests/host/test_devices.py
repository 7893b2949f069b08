"""Several devices through POST /prompt: two worker processes on the CPU, behind the same workflow."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_interrupt import MANY
from tests.host.test_workflows import read_video

SECONDS = 100  # that a process may take to end on a busy machine


@pytest.fixture(scope="module")
def server(start_host: Callable[..., Host]) -> Host:
    return start_host("devices")


def graph_for(devices: str, prefix: str, **values: object) -> Graph:
    graph = graphs.workflow("quick_start", prefix, **values)
    graph[graphs.node_id(graph, "LTX23Load")]["inputs"]["devices"] = devices
    return graph


def workers(server: Host) -> list[psutil.Process]:
    """The processes that the server started for us."""
    found = []
    for child in psutil.Process(server.server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ends just now
            if any("ltx23_core.workers" in word for word in child.cmdline()):
                found.append(child)
    return found


def test_two_devices_make_what_one_makes(server: Host) -> None:
    videos = []
    for devices in ("1", "2"):
        run = server.client.run(graph_for(devices, f"on{devices}", seed=5))
        assert run.ok, run.error
        videos.append(read_video(server.client.file(run.results()[0]))[0].astype(np.int16))
        assert [kind.type for kind in run.events].count("preview") in (1, 2, 3), "one a step while they cost little"
    totals = {total for _, total in run.progress(graphs.node_id(graph_for("2", ""), "LTX23Sampler"))}
    assert max(totals) > 50, f"{totals}: the load of as many tensors by the workers has a bar"
    assert videos[0].shape == videos[1].shape and np.abs(videos[0] - videos[1]).mean() < 0.5
    assert len(workers(server)) == 2


def test_interrupt_and_a_worker_that_dies(server: Host) -> None:
    server.client.run(graph_for("2", "warm", seed=5))
    before = {process.pid for process in workers(server)}
    prompt = server.client.queue(graph_for("2", "cut", steps=MANY, seed=801))
    pressed, events = False, []
    for event in server.client.events(prompt):
        events.append(event)
        if event.type == "preview" and not pressed:
            pressed = True
            server.client.interrupt()
    assert events[-1].type == "execution_interrupted"
    assert {process.pid for process in workers(server)} == before, "an interrupt leaves them, and their weights"

    prompt = server.client.queue(graph_for("2", "killed", steps=MANY, seed=802))
    killed = False
    for event in server.client.events(prompt):
        events.append(event)
        if event.type == "preview" and not killed:
            killed = True
            workers(server)[0].kill()
    assert events[-1].type == "execution_error"
    assert "of 2 (cpu) ended" in events[-1].data["exception_message"]
    run = server.client.run(graph_for("2", "again", seed=5))
    assert run.ok, run.error


def test_workers_go_with_the_model(server: Host) -> None:
    """POST /free drops what nodes gave, the model among them."""
    assert server.client.run(graph_for("2", "freed", seed=5)).ok and len(workers(server)) == 2
    server.client.free()
    end = time.monotonic() + SECONDS
    while workers(server) and time.monotonic() < end:
        time.sleep(0.2)
    assert not workers(server)


def test_devices_that_cannot_be(server: Host) -> None:
    run = server.client.run(graph_for("many", "wrong"))
    assert not run.ok and "devices is 'many'" in str(run.error)


def test_workers_end_with_the_server(start_host: Callable[..., Host]) -> None:
    host = start_host("ending")
    prompt = host.client.queue(graph_for("2", "ending", steps=MANY, seed=1))
    for event in host.client.events(prompt):
        if event.type == "preview":
            break
    found = workers(host)
    assert len(found) == 2
    host.server.process.kill()
    gone, left = psutil.wait_procs(found, timeout=SECONDS)
    assert not left
