"""Cancelling: at once, without a trace, and the next run is as good as before."""
from __future__ import annotations

import re

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Run

MANY = 2000  # steps that last longer than any test runner stands still; nobody waits for their end


def test_interrupt_in_mid_sampling_then_a_good_run(host: Host) -> None:
    graph = graphs.workflow("quick_start", "interrupted", steps=MANY, seed=701)
    prompt = host.client.queue(graph)
    pressed, run = False, Run(prompt)
    for event in host.client.events(prompt):
        run.events.append(event)
        if event.type == "preview" and not pressed:
            pressed = True
            host.client.interrupt()
    assert run.interrupted and run.events[-1].data["node_type"] == "LTX23Sampler"
    steps = [int(found[1]) for _, text in run.texts if (found := re.search(r"step (\d+)/", text))]
    assert 1 <= max(steps) < MANY / 2, "it did not stop at once"
    assert not list(host.base.output.glob("interrupted*")), "no half-written file"
    status = host.client.history(prompt)["status"]
    assert status["status_str"] == "error" and not status["completed"]

    run = host.client.run(graphs.with_values(graph, steps=2))
    assert run.ok, run.error
    assert len(list(host.base.output.glob("interrupted*.mp4"))) == 1


def test_interrupt_while_decoding_leaves_no_file(host: Host) -> None:
    graph = graphs.workflow("quick_start", "stopped", steps=1, frames=257, width=256, height=256, seed=702)
    decoder = graphs.node_id(graph, "LTX23DecodeToFile")
    prompt = host.client.queue(graph)
    events = []
    for event in host.client.events(prompt):
        events.append(event)
        if event.type == "executing" and event.data.get("node") == decoder:
            host.client.interrupt()
    assert events[-1].type == "execution_interrupted"
    assert not list(host.base.output.glob("*stopped*")) and not list(host.base.output.glob(".*part"))


def test_interrupt_between_queued_prompts(host: Host) -> None:
    """Only the running prompt ends; the one behind it runs."""
    graph = graphs.workflow("quick_start", "queued", steps=MANY, seed=703)
    first = host.client.queue(graph)
    second = host.client.queue(graphs.with_values(graph, steps=1))
    stopped = False
    for event in host.client.events(first):
        if event.type == "preview" and not stopped:
            stopped = True
            host.client.interrupt()
    assert stopped and host.client.follow(second).ok
