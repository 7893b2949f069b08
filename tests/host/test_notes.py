"""What is no error and still worth knowing stands in the node on the page, not in the log alone."""
from __future__ import annotations

import struct

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph, Run

TEXT = 3  # of ComfyUI's binary messages


def said(run: Run, node: str) -> str:
    """All texts that a node showed."""
    texts = []
    for event in run.events:
        if event.type == "binary" and event.data.get("kind") == TEXT:
            size = struct.unpack(">I", event.image[:4])[0]
            if event.image[4:4 + size].decode() == node:
                texts.append(event.image[4 + size:].decode())
    return "\n".join(texts)


def with_node(graph: Graph, key: str, name: str, link: str, **inputs: object) -> Graph:
    """A condition for the sampler."""
    graph[key] = {"class_type": name, "inputs": inputs}
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"][link] = [key, 0]
    return graph


def test_a_sound_that_is_too_short_is_told_in_the_sampler(host: Host) -> None:
    graph = graphs.workflow("quick_start", "notes/short", seed=31)
    graph["30"] = {"class_type": "EmptyAudio", "inputs": {"duration": 0.2, "sample_rate": 44100, "channels": 2}}
    graph = with_node(graph, "31", "LTX23SourceAudio", "conditions", audio=["30", 0], start=0.0, noise=0.0)
    run = host.client.run(graph)
    assert run.ok, run.error
    text = said(run, graphs.node_id(graph, "LTX23Sampler"))
    assert "frames at 24 fps" in text and "s shorter than the clip; silence fills the rest" in text, text


def test_latents_of_other_lengths_are_told_where_they_meet(host: Host) -> None:
    graph = graphs.workflow("quick_start", "notes/apart", seed=32, frames=17)
    sampler, decoder = graphs.node_id(graph, "LTX23Sampler"), graphs.node_id(graph, "LTX23DecodeToFile")
    graph["40"] = {"class_type": "LTX23Sampler", "inputs": {**graph[sampler]["inputs"], "frames": 49}}
    graph[decoder]["inputs"]["audio"] = ["40", 1]
    run = host.client.run(graph)
    assert run.ok, run.error
    assert "picture and sound will not be in step" in said(run, decoder)


def test_an_inpaint_that_marks_nothing_is_told(host: Host) -> None:
    graph = graphs.workflow("quick_start", "notes/empty", seed=33, frames=9)
    graph["30"] = {"class_type": "EmptyImage", "inputs": {"width": 96, "height": 64, "batch_size": 9, "color": 255}}
    graph["31"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 96, "height": 64}}
    graph = with_node(graph, "32", "LTX23Inpaint", "conditions", images=["30", 0], mask=["31", 0])
    run = host.client.run(graph)
    assert run.ok, run.error
    assert "nothing of the clip is made anew" in said(run, graphs.node_id(graph, "LTX23Sampler"))


def test_what_a_run_says_goes_to_who_asked_for_it(host: Host) -> None:
    """Other pages may have a node of the same number; ComfyUI sends a text without an addressee to all."""
    onlooker = host.new_client()
    onlooker.connect()
    run = host.client.run(graphs.workflow("quick_start", "notes/asked", seed=32, steps=1))
    assert run.ok and run.texts
    last = graphs.workflow("quick_start", "notes/nobody", seed=33, steps=1)
    host.client.post("/prompt", {"prompt": last})  # of nobody
    heard = onlooker.run(last)  # which was made already
    assert heard.ok and "3" in heard.cached
    assert heard.texts == [] and heard.previews == []
    onlooker.close()
