"""LTX23LoRA on a real server: lists, reports, chains, branches; another strength loads nothing; refusals."""
from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator

import av
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Host
from tests.goldens.harness import companion
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_cache import Log
from tests.host.test_overlay_node import wait_until_read
from tests.host.test_refusals import refusal

NAMES = ("styles/a.safetensors", "b.safetensors")


@pytest.fixture(scope="module")
def files(host: Host) -> Iterator[list[str]]:
    """Two LoRAs of some blocks each, and a third for another model."""
    folder, paths = host.base.models / "loras", []
    distilled = load_file(companion("distilled-lora"))
    for name, block in zip(NAMES, ("transformer_blocks.0.", "transformer_blocks.2."), strict=True):
        tensors = {key: value * 3 for key, value in distilled.items() if block in key}
        assert tensors
        paths.append(folder / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors | {"text_model.layers.0.mlp.fc1.lora_A.weight": torch.zeros(2, 4)}, paths[-1])
    paths.append(folder / "flux.safetensors")
    save_file({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(2, 4),
               "double_blocks.0.img_attn.qkv.lora_B.weight": torch.zeros(4, 2)}, paths[-1])
    time.sleep(1.1)  # lists may be a second old
    wait_until_read(host)  # as the page asks after R; a schema alone holds what the last look found
    yield list(NAMES)
    for path in paths:
        path.unlink()


def defaults(host: Host) -> dict[str, object]:
    found = host.client.node_info("LTX23LoRA")["input"]
    return {key: spec[1]["default"] if "default" in spec[1] else spec[1]["options"][0]
            for key, spec in {**found["required"], **found.get("optional", {})}.items() if key not in ("model", "lora")}


def with_loras(host: Host, *loras: dict[str, object], seed: int = 5, prefix: str = "lora") -> Graph:
    """quick_start with a chain of LoRA nodes 100, 101, … between Load and the rest, and the last one's report."""
    graph = graphs.workflow("quick_start", prefix, frames=9, seed=seed)
    link = [graphs.node_id(graph, "LTX23Load"), 0]
    users = [node for node in graph.values() if node["inputs"].get("model") == link]
    assert users
    for i, lora in enumerate(loras):
        graph[str(100 + i)] = {"class_type": "LTX23LoRA", "inputs": {"model": link, **defaults(host), **lora}}
        link = [str(100 + i), 0]
    for node in users:
        node["inputs"]["model"] = link
    if loras:
        graph["200"] = {"class_type": "PreviewAny", "inputs": {"source": [link[0], 1]}}
    return graph


def picture(host: Host, graph: Graph) -> bytes:
    run = host.client.run(graph)
    assert run.ok, run.error
    return host.client.file(run.results()[0]).read_bytes()


def test_list_and_report(host: Host, files: list[str]) -> None:
    listed = host.client.node_info("LTX23LoRA")["input"]["required"]["lora"][1]["options"]
    assert {*files, graphs.LORA} <= set(listed) and "flux.safetensors" not in listed
    run = host.client.run(with_loras(host, {"lora": files[0], "strength": 0.5, "audio": 0.0}))
    assert run.ok, run.error
    text = run.outputs["200"]["text"][0]
    print(text)
    for words in ("a.safetensors: official LoRA, changes", "of transformer", " video, ", " audio, ", " cross-modal",
                  "strength 0.5 / 0.5", "audio 0", "1 keys unused", "text encoder"):
        assert words in text, words


@pytest.mark.parametrize("mode", ["runtime", "fused"])
def test_another_strength_loads_nothing_and_runs_from_there(host: Host, files: list[str], mode: str) -> None:
    lora = {"lora": files[0], "mode": mode}
    first = picture(host, with_loras(host, {**lora, "strength": 1.0}))
    log, graph = Log(host), with_loras(host, {**lora, "strength": 0.35})
    run = host.client.run(graph)
    assert run.ok and log.loaded == []
    assert {graphs.node_id(graph, "LTX23Overlay"), graphs.node_id(graph, "LTX23Load")} <= run.cached
    assert "100" in run.executed and graphs.node_id(graph, "LTX23Sampler") in run.executed
    assert host.client.file(run.results()[0]).read_bytes() != first
    changes = [line for line in host.log[log._start:].splitlines() if line.startswith("LoRAs of transformer: ")]
    print(changes)
    assert len(changes) == 1 and (mode == "fused" or ", read 0.0 MB in " in changes[0])
    again = host.client.run(with_loras(host, {**lora, "strength": 0.35}))
    assert again.ok and not again.executed, "equal inputs: all from the cache"


def test_without_it_everything_is_as_before(host: Host, files: list[str]) -> None:
    """Also after chains of both modes: the base is back bit for bit, and no model was loaded."""
    before = host.client.run(with_loras(host, seed=77, prefix="before"))
    log = Log(host)
    chain = [{"lora": files[0], "mode": "fused"}, {"lora": files[1], "strength": -1.0, "mode": "runtime"}]
    changed = picture(host, with_loras(host, *chain, seed=77, prefix="chain"))
    after = picture(host, with_loras(host, seed=77, prefix="after"))
    first = host.client.file(before.results()[0]).read_bytes()
    assert before.ok and frames(first) == frames(after) != frames(changed)
    assert log.loaded == []


def frames(video: bytes) -> list[bytes]:
    with av.open(io.BytesIO(video)) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


def test_one_load_two_branches(host: Host, files: list[str]) -> None:
    """Two LoRA chains from one Load in one graph: each gives what it gives alone."""
    alone = [frames(picture(host, with_loras(host, {"lora": name}, seed=31, prefix="alone"))) for name in files]
    graph = with_loras(host, {"lora": files[0]}, seed=31, prefix="left")
    other = with_loras(host, {"lora": files[1]}, seed=31, prefix="right")
    shared = {graphs.node_id(graph, name) for name in ("LTX23Overlay", "LTX23Load")}

    def renamed(value: object) -> object:
        return [value[0] if value[0] in shared else "x" + value[0], value[1]] if isinstance(value, list) else value

    both = graph | {"x" + key: {**node, "inputs": {name: renamed(value) for name, value in node["inputs"].items()}}
                    for key, node in other.items() if key not in shared}
    log = Log(host)
    run = host.client.run(both)
    assert run.ok, run.error
    got = [frames(host.client.file(result).read_bytes()) for result in run.results()]
    assert sorted(map(hash, map(tuple, got))) == sorted(map(hash, map(tuple, alone))) and alone[0] != alone[1]
    assert log.loaded == []


def test_a_changed_file_runs_again(host: Host, files: list[str]) -> None:
    graph = with_loras(host, {"lora": files[1]}, seed=8)
    assert host.client.run(graph).ok
    path = host.base.models / "loras" / files[1]
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 2_000_000_000))
    log, run = Log(host), host.client.run(graph)
    assert run.ok and "100" in run.executed and log.loaded == []


def test_wrong_files_are_refused_before_the_run(host: Host, files: list[str]) -> None:
    message = refusal(host, with_loras(host, {"lora": "flux.safetensors"}))["LTX23LoRA"][0]
    assert "flux.safetensors, which cannot be used there" in message and "Flux" in message
    message = refusal(host, with_loras(host, {"lora": "gone.safetensors"}))["LTX23LoRA"][0]
    assert "is not in models/loras" in message and files[1] in message
    message = refusal(host, with_loras(host, {"lora": "../gone.safetensors"}))["LTX23LoRA"][0]
    assert "lora is no name of a list: '../gone.safetensors'" in message
    for change, words in (({"stages": "third"}, "stages is 'third'"),
                          ({"mode": "fast"}, "mode is 'fast'")):
        details = refusal(host, with_loras(host, {"lora": files[0], **change}))
        assert words in details["LTX23LoRA"][0]
