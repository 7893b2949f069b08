"""Long video through POST /prompt: exact lengths, prompts, resuming after an interrupt."""
from __future__ import annotations

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_refusals import refusal
from tests.host.test_workflows import read_video


def long_graph(prefix: str, **values: object) -> Graph:
    graph = graphs.workflow("quick_start", prefix, frames=57, width=64, height=64, steps=2)
    sampler = graphs.node_id(graph, "LTX23Sampler")
    graph["70"] = {"class_type": "LTX23LongVideo", "inputs": {
        "model": graph[sampler]["inputs"]["model"], "prompts": "A boat.\n---\nA storm.", "window": 33, "overlap": 8,
        "overlap_strength": 1.0, "resume": True, "negative_prompt": "", **values}}
    graph[sampler]["inputs"]["windows"] = ["70", 0]
    return graph


def test_a_long_video_goes_on_after_an_interrupt(host: Host) -> None:
    kept = host.base.user / "ltx23_long_video"
    graph = long_graph("long/video")
    sampler = graphs.node_id(graph, "LTX23Sampler")
    prompt = host.client.queue(graph)
    for event in host.client.events(prompt):
        if event.type == "preview" and list(kept.glob("*.safetensors")):
            host.client.interrupt()
    assert len(list(kept.glob("*.safetensors"))) == 1, "the first window was kept"
    run = host.client.run(graph)
    assert run.ok, run.error
    assert "goes on after 1 windows of an earlier run" in host.log and not list(kept.iterdir())
    assert (4, 4) in run.progress(sampler) and (1, 4) not in run.progress(sampler)
    frames, sound, _ = read_video(host.client.file(run.results()[0]))
    assert frames.shape == (57, 64, 64, 3) and abs(sound.shape[1] / 48000 - 57 / 24) < 0.05


def test_lengths_are_refused_before_the_run(host: Host) -> None:
    assert "Use 33 or 41." in refusal(host, long_graph("bad", window=34))["LTX23LongVideo"][0]
    assert "overlap is 12 frames" in refusal(host, long_graph("bad", overlap=12))["LTX23LongVideo"][0]
