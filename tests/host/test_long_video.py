"""Long video through POST /prompt: exact lengths, prompts, resuming after an interrupt."""
from __future__ import annotations

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_refusals import refusal
from tests.host.test_workflows import read_video

WINDOWS, STEPS = 3, 12  # whoever cancels after the first has the time of all others for it
FRAMES = 33 + 32 * (WINDOWS - 1)


def long_graph(prefix: str, frames: int = 57, steps: int = 2, **values: object) -> Graph:
    graph = graphs.workflow("quick_start", prefix, frames=frames, width=64, height=64, steps=steps)
    sampler = graphs.node_id(graph, "LTX23Sampler")
    graph["70"] = {"class_type": "LTX23LongVideo", "inputs": {
        "model": graph[sampler]["inputs"]["model"], "prompts": "A boat.\n---\nA storm.", "window": 33, "overlap": 8,
        "overlap_strength": 1.0, "resume": True, "negative_prompt": "", **values}}
    graph[sampler]["inputs"]["windows"] = ["70", 0]
    return graph


def test_a_long_video_goes_on_after_an_interrupt(host: Host) -> None:
    kept = host.base.user / "ltx23_long_video"
    graph = long_graph("long/video", FRAMES, STEPS)
    sampler, total = graphs.node_id(graph, "LTX23Sampler"), WINDOWS * STEPS
    prompt = host.client.queue(graph)
    pressed = False
    for event in host.client.events(prompt):
        if event.type in ("preview", "progress_state") and not pressed and list(kept.glob("*.safetensors")):
            pressed = True
            host.client.interrupt()
    assert event.type == "execution_interrupted", event
    count = len(list(kept.glob("*.safetensors")))
    assert 1 <= count < WINDOWS, "the windows that were done were kept"
    run = host.client.run(graph)
    assert run.ok, run.error
    assert f"goes on after {count} windows of an earlier run" in host.log and not list(kept.iterdir())
    steps = [value for value, high in run.progress(sampler) if high == total]
    assert steps[-1] == total and min(step for step in steps if step) > count * STEPS
    frames, sound, _ = read_video(host.client.file(run.results()[0]))
    assert frames.shape == (FRAMES, 64, 64, 3) and abs(sound.shape[1] / 48000 - FRAMES / 24) < 0.05


def test_lengths_are_refused_before_the_run(host: Host) -> None:
    assert "Use 33 or 41." in refusal(host, long_graph("bad", window=34))["LTX23LongVideo"][0]
    assert "overlap is 12 frames" in refusal(host, long_graph("bad", overlap=12))["LTX23LongVideo"][0]
