"""What runs again and what does not: nothing for an equal prompt, no weights for a new seed."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_start_up import COMFYUI_DATABASE


class Log:
    """What the server's log says about weights from now on."""

    def __init__(self, host: Host) -> None:
        self._host, self._start = host, len(host.log)

    def names(self, word: str) -> list[str]:
        return re.findall(rf"^{word} (\S+):", self._host.log[self._start:], re.MULTILINE)

    @property
    def loaded(self) -> list[str]:
        return self.names("loaded")

    def wait_released(self, names: set[str], seconds: float = 200) -> set[str]:
        """The worker frees between prompts: wait until these components are out, or the time is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not names <= set(self.names("released")):
            time.sleep(0.05)
        return set(self.names("released"))


USED = {"text_encoder", "text_projection", "connectors", "transformer", "video_decoder", "audio_decoder", "vocoder"}


@pytest.fixture
def graph(host: Host) -> Graph:
    """text_to_video as every test of this file starts with it: run once, so models and outputs are cached."""
    graph = graphs.workflow("text_to_video", "cache")
    assert host.client.run(graph).ok
    return graph


def test_equal_prompt_runs_nothing(host: Host, graph: Graph) -> None:
    log = Log(host)
    run = host.client.run(graph)
    assert run.ok and run.cached == set(graph) and not run.executed
    assert run.results(), "the page still gets the video"
    assert log.loaded == []


def test_new_seed_runs_from_the_sampler_on(host: Host, graph: Graph) -> None:
    log = Log(host)
    run = host.client.run(graphs.with_values(graph, seed=611))
    kept = {graphs.node_id(graph, name) for name in ("LTX23Overlay", "LTX23Load", "LTX23Prompt")}
    assert run.ok and run.cached == kept and set(run.executed) == set(graph) - kept
    assert log.loaded == []


def test_new_seed_does_not_encode_again_in_the_sampler(host: Host) -> None:
    """quick_start writes its prompt into the sampler; the model keeps the encoded text."""
    graph = graphs.workflow("quick_start", "cache-quick")
    assert host.client.run(graph).ok
    log = Log(host)
    host.client.free(free_memory=False)
    assert "transformer" in log.wait_released({"transformer"}), "else the next prompt may come first"
    log = Log(host)
    run = host.client.run(graphs.with_values(graph, seed=612))
    assert run.ok and "text_encoder" not in log.loaded and "transformer" in log.loaded


def test_new_prompt_loads_nothing(host: Host, graph: Graph) -> None:
    assert host.client.run(graphs.with_values(graph, prompt="A green kite")).ok
    log = Log(host)
    run = host.client.run(graphs.with_values(graph, prompt="A red kite"))
    assert run.ok and log.loaded == []


def test_other_load_node_shares_the_weights(host: Host, graph: Graph) -> None:
    """Two Load nodes with equal settings give one model: nothing is loaded for the second."""
    both = graphs.with_values(graph, prompt="A yellow kite")
    assert host.client.run(both).ok
    load, prompt = graphs.node_id(graph, "LTX23Load"), graphs.node_id(graph, "LTX23Prompt")
    both["70"] = {"class_type": "LTX23Load", "inputs": dict(graph[load]["inputs"])}
    both[prompt]["inputs"] |= {"model": ["70", 0], "prompt": "A blue kite"}
    log = Log(host)
    assert host.client.run(both).ok and log.loaded == []


def test_changed_source_file_makes_a_new_overlay(host: Host, graph: Graph) -> None:
    checkpoint = host.models[graphs.CHECKPOINT]
    old = checkpoint.stat()
    os.utime(checkpoint, ns=(old.st_atime_ns, old.st_mtime_ns + 2_000_000_000))
    log = Log(host)
    try:
        run = host.client.run(graph)
        assert run.ok and graphs.node_id(graph, "LTX23Overlay") in run.executed
        assert "transformer" in log.loaded, "another file, so other weights"
    finally:
        os.utime(checkpoint, ns=(old.st_atime_ns, old.st_mtime_ns))


def test_another_weight_dtype_is_another_model(host: Host, graph: Graph) -> None:
    """Quantised while it is read: the transformer is read again and makes another picture."""
    load, pictures = graphs.node_id(graph, "LTX23Load"), {}
    for form in ("as stored", "fp8_e4m3fn", "Q4_K"):
        changed = graphs.with_values(graph, seed=11)
        changed[load]["inputs"]["weight_dtype"] = form
        log = Log(host)
        run = host.client.run(changed)
        assert run.ok
        assert form == "as stored" or "transformer" in log.loaded
        pictures[form] = host.client.file(run.results()[0]).read_bytes()
    assert len(set(pictures.values())) == 3


def test_free_unloads_weights_and_the_next_run_loads_again(host: Host, graph: Graph) -> None:
    assert host.client.run(graphs.with_values(graph, seed=613, prompt="kite")).ok
    log = Log(host)
    host.client.free(unload_models=True, free_memory=False)
    assert log.wait_released(USED) >= USED
    log = Log(host)
    run = host.client.run(graphs.with_values(graph, seed=614))
    assert run.ok and set(log.loaded) == USED - {"text_encoder", "text_projection", "connectors"}


def test_free_memory_forgets_the_model(host: Host, graph: Graph) -> None:
    """"Unload models and execution cache" leaves nothing of the pack behind: everything runs and loads again."""
    graph = graphs.with_values(graph, seed=615, prompt="white kite")
    assert host.client.run(graph).ok
    log = Log(host)
    host.client.free(unload_models=True, free_memory=True)
    assert log.wait_released(USED) >= USED
    log = Log(host)
    run = host.client.run(graph)
    assert run.ok and not run.cached and set(log.loaded) >= USED


def test_two_prompts_queued(host: Host, graph: Graph) -> None:
    """They run one after the other, each with its own result."""
    seeds = [691, 692]
    prompts = [host.client.queue(graphs.with_values(graph, seed=seed)) for seed in seeds]
    first, second = (host.client.follow(prompt) for prompt in prompts)
    assert first.ok and second.ok
    assert host.client.file(first.results()[0]).read_bytes() != host.client.file(second.results()[0]).read_bytes()


def test_without_any_cache(start_host: object) -> None:
    """--cache-none: outputs are dropped as soon as they are used; the graph still runs."""
    host = start_host("cache-none", options=("--cache-none",))
    graph = graphs.workflow("text_to_video", "none", frames=9)
    assert host.client.run(graph).ok and host.client.run(graph).ok
    assert "Traceback" not in COMFYUI_DATABASE.sub("", host.log)


def test_no_ram_for_cached_outputs(start_host: Callable[..., Host]) -> None:
    """--cache-ram with more than there is: after each node the host asks every output what it takes, and drops them."""
    host = start_host("cache-ram", options=("--cache-ram", "100000"))
    for _ in range(2):
        run = host.client.run(graphs.workflow("text_to_video", "ram"))
        assert run.ok and run.results()
    # SQLAlchemy writes some of its own about ComfyUI's database in memory.
    ours = [part for part in host.log.split("Traceback")[1:] if "ltx23" in part[:4000]]
    assert not ours, ours


def test_a_prompt_on_the_disk_is_found_when_all_else_is_forgotten(host: Host, graph: Graph) -> None:
    text, folder = {"text_encoder", "text_projection", "connectors"}, host.base.user / "ltx23_prompts"
    assert not folder.exists(), "by choice alone"
    graph = graphs.with_values(graph, prompt="black kite")
    graph[graphs.node_id(graph, "LTX23Prompt")]["inputs"]["prompt_cache"] = True
    assert host.client.run(graph).ok
    assert len(list(folder.iterdir())) == 2, "the prompt and its negative"
    log = Log(host)
    host.client.free(unload_models=True, free_memory=True)
    assert log.wait_released(USED) >= USED
    log = Log(host)
    run = host.client.run(graph)
    assert run.ok and not run.cached and set(log.loaded) == USED - text
