"""LTX23EnhancePrompt in a real server: its text, the user's own text, no vision tower, interruption."""
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_cache import Log
from tests.host.test_workflows import load_latent
from tests.support.layouts import comfy_gemma

NODE, SHORT = "50", 24
LONG = 107  # a seed whose answers, with and without a picture, go on to the last of 1024 tokens


def alone(**inputs: object) -> Graph:
    """Overlay, Load and Enhance Prompt."""
    graph = graphs.workflow("quick_start", "enhance")
    load = graphs.node_id(graph, "LTX23Load")
    overlay = graphs.node_id(graph, "LTX23Overlay")
    return {overlay: graph[overlay], load: graph[load], NODE: {"class_type": "LTX23EnhancePrompt", "inputs": {
        "model": [load, 0], "prompt": "a boat on a lake", "seed": 1, "max_tokens": SHORT, **inputs}}}


def text_of(host: Host, graph: Graph) -> str:
    run = host.client.run(graph)
    assert run.ok, run.error
    [text] = run.outputs[NODE]["text"]
    return text


def test_text_is_shown_and_depends_on_the_seed_alone(host: Host) -> None:
    run = host.client.run(alone())
    assert run.ok, run.error
    [text] = run.outputs[NODE]["text"]
    assert text and text != "a boat on a lake"
    assert run.progress(NODE)[-1] == (SHORT, SHORT), "one tick a token"
    assert text_of(host, alone(seed=2)) != text
    again = host.client.run(alone(max_tokens=SHORT, instructions="", edited=""))
    assert again.outputs[NODE]["text"] == [text]


def test_everything_but_model_and_prompt_may_be_left_out(host: Host) -> None:
    graph = alone(edited="short")
    assert set(graph[NODE]["inputs"]) == {"model", "prompt", "seed", "max_tokens", "edited"}
    del graph[NODE]["inputs"]["max_tokens"]
    assert text_of(host, graph) == "short"


def test_edited_text_loads_nothing(host: Host) -> None:
    assert text_of(host, alone(prompt="loads it"))
    log = Log(host)
    host.client.free()
    assert "text_encoder" in log.wait_released({"text_encoder"})
    log = Log(host)
    assert text_of(host, alone(edited="  My own words.\n", prompt="unused")) == "My own words."
    assert "text_encoder" not in log.loaded
    assert text_of(host, alone(prompt="used")) and "text_encoder" in log.loaded


def test_text_goes_into_a_video(host: Host) -> None:
    """Linked to Sampler's prompt: the latents of the same text typed in, and others than those of another text."""
    graph = graphs.workflow("quick_start", "enhanced", frames=9)
    sampler, load = (graphs.node_id(graph, name) for name in ("LTX23Sampler", "LTX23Load"))
    del graph[graphs.node_id(graph, "LTX23DecodeToFile")]
    graph[NODE] = alone(model=[load, 0])[NODE]
    graph["90"] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latent/linked"}}
    typed = graphs.with_values(graph, filename_prefix="latent/typed")
    graph[sampler]["inputs"]["prompt"] = [NODE, 0]
    linked = host.client.run(graph)
    assert linked.ok, linked.error
    typed[sampler]["inputs"]["prompt"] = linked.outputs[NODE]["text"][0]
    runs = [linked, host.client.run(typed), host.client.run(graphs.with_values(typed, prompt="a red fox"))]
    first, same, other = (load_latent(host.client.file(run.outputs["90"]["latents"][0])) for run in runs)
    assert np.abs(first - same).max() <= 1e-4 * np.abs(first).max(), "rounding depends on the threads that are free"
    assert np.abs(first - other).max() > 0.05


def with_image(**inputs: object) -> Graph:
    graph = alone(image=["60", 0], **inputs)
    graph["60"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 2, "color": 255}}
    return graph


def test_image(host: Host) -> None:
    texts = [text_of(host, graphs.with_values(with_image(), color=color)) for color in (255, 0xFF0000)]
    assert len({*texts, text_of(host, alone())}) == 3


@pytest.fixture
def blind(host: Host, tmp_path: Path) -> Iterator[str]:
    """A text encoder file without vision tower in the model folders."""
    path, _ = comfy_gemma(tmp_path / "blind.safetensors")
    folder = host.base.models / "text_encoders" / "blind"
    folder.mkdir()
    save_file({k: t for k, t in load_file(path).items() if not k.startswith(("vision", "multi_modal"))},
              folder / "blind.safetensors")
    shutil.copy(tmp_path / "config.json", folder)
    yield "blind/blind.safetensors"
    shutil.rmtree(folder)


def test_image_without_a_vision_tower(host: Host, blind: str) -> None:
    run = host.client.run(graphs.with_values(with_image(), text_encoder=blind))
    message = run.error["exception_message"]
    assert run.error["node_type"] == "LTX23EnhancePrompt"
    assert "no text_encoder_vision" in message and "gemma_3_12B_it.safetensors" in message, message
    assert "Expected: " in message and "Next: " in message and "\n" not in message.rstrip("\n")
    assert text_of(host, graphs.with_values(alone(), text_encoder=blind))


def test_empty_prompt(host: Host) -> None:
    assert "there is no prompt to enhance" in host.client.run(alone(prompt=" ")).error["exception_message"]


@pytest.mark.parametrize("build", [alone, with_image])
def test_interrupt_while_writing(host: Host, build: Callable[..., Graph]) -> None:
    graph = build(max_tokens=1024, seed=LONG)
    prompt = host.client.queue(graph)
    pressed, ticks = False, 0
    for event in host.client.events(prompt):
        node = event.data.get("nodes", {}).get(NODE, {}) if event.type == "progress_state" else {}
        ticks = max(ticks, node.get("value", 0))
        if node.get("value", 0) > 3 and not pressed:
            pressed = True
            host.client.interrupt()
    assert event.type == "execution_interrupted" and event.data["node_type"] == "LTX23EnhancePrompt"
    assert ticks < 1024 / 2, "it did not stop at once"
    assert text_of(host, build(seed=3)), "and the next run is as good as before"
