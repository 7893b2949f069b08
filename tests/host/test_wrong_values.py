"""Every input that /object_info lists, with values that are none: a sentence each, never raw Python text."""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import ClientError, Graph
from tests.host.test_object_info import NODES

SOURCES: Graph = {
    "overlay": {"class_type": "LTX23Overlay", "inputs": {"checkpoint": "auto", "text_encoder": "auto"}},
    "load": {"class_type": "LTX23Load", "inputs": {
        "overlay": ["overlay", 0], "precision": "auto", "attention": "auto"}},
    "prompt": {"class_type": "LTX23Prompt", "inputs": {"model": ["load", 0], "prompt": "a", "negative_prompt": "none"}},
    "sampler": {"class_type": "LTX23Sampler", "inputs": {
        "model": ["load", 0], "prompt": "a", "recipe": "auto", "width": 64, "height": 64, "frames": 9, "fps": 24.0,
        "seed": 1, "steps": 1, "negative_prompt": "none"}},
    "guidance": {"class_type": "LTX23NAG", "inputs": {"scale": 5.0, "tau": 2.5, "alpha": 0.25, "streams": "both"}},
    "solver": {"class_type": "LTX23Solver", "inputs": {"name": "euler", "eta": -1.0, "s_noise": 1.0, "gamma": 2.0}},
    "images": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 255}},
    "mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}},
    "audio": {"class_type": "EmptyAudio", "inputs": {"duration": 1.0, "sample_rate": 44100, "channels": 2}},
}
SOCKETS: dict[str, list[Any]] = {
    "LTX23_OVERLAY": ["overlay", 0], "LTX23_MODEL": ["load", 0], "LTX23_CONTEXT": ["prompt", 0],
    "LTX23_GUIDANCE": ["guidance", 0], "LTX23_SOLVER": ["solver", 0], "IMAGE": ["images", 0], "MASK": ["mask", 0],
    "AUDIO": ["audio", 0]}
LATENTS = {"video": ["sampler", 0], "audio": ["sampler", 1]}
LEFT_OUT = {"LTX23_CONDITIONS", "LTX23_WINDOWS", "SIGMAS", "VIDEO"}  # optional in every node
WRONG: list[Any] = [None, {"a": [1]}, "\ud800", "a\0b", "x" * 300, float("nan")]
HOSTS = "Failed to convert an input value"  # the host's own words, before any node is asked
RAW = ("Traceback", "object has no attribute", "NoneType", "not supported between", "argument must be", "unhashable",
       "indices must be", "unexpected keyword", "codec can't", "surrogates not allowed", "embedded null", "Errno",
       "not subscriptable", "not iterable", "KeyError", "AttributeError", "TypeError")


def described(host: Host, name: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    info = host.client.node_info(name)["input"]
    return {key: (spec[0], spec[1] if len(spec) > 1 else {}) for part in ("required", "optional")
            for key, spec in info.get(part, {}).items()}


def right(kind: Any, options: dict[str, Any], name: str) -> Any:
    """A value that the input takes; None where it is left out."""
    if kind == "LATENT":
        return LATENTS["audio" if "audio" in name else "video"]
    if kind in SOCKETS or kind in LEFT_OUT:
        return SOCKETS.get(kind)
    choices = options.get("options", kind if isinstance(kind, list) else None)
    return options["default"] if "default" in options else choices[0] if choices else None


def built(host: Host, name: str, key: str, value: Any) -> Graph:
    """A graph with one node, whose input has the value, and what it needs; something looks at its output."""
    inputs = {other: found for other, (kind, options) in described(host, name).items()
              if (found := right(kind, options, other)) is not None}
    if name in ("LTX23Retake", "LTX23Extend", "LTX23SourceVideo", "LTX23Inpaint", "LTX23ReferenceVideo"):
        inputs["images"] = SOCKETS["IMAGE"]
    if name == "LTX23Sampler":
        inputs = {**SOURCES["sampler"]["inputs"]}
    graph = json.loads(json.dumps(SOURCES))
    graph["node"] = {"class_type": name, "inputs": {**inputs, key: value}}
    graph["look"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}}
    used, queue = set(), ["look", "node"]
    while queue:
        one = queue.pop()
        used.add(one)
        queue += [link[0] for link in graph[one]["inputs"].values()
                  if isinstance(link, list) and link[0] in graph and link[0] not in used]
    return {one: node for one, node in graph.items() if one in used}


def answers(host: Host, graph: Graph) -> Iterator[str]:
    """All that the user is told, before the run and in it; nothing where it ran well."""
    try:
        prompt = host.client.queue(graph)
    except ClientError as error:
        for node in (error.body.get("node_errors") or {"": {"errors": [error.body["error"]]}}).values():
            yield from (f"{each['message']}: {each['details']}" for each in node["errors"]
                        if not each["message"].startswith(HOSTS))
        return
    run = host.client.follow(prompt)
    if run.error is not None:
        yield f"{run.error['exception_type']}: {run.error['exception_message']}"


def is_sentence(told: str) -> bool:
    """Whether an answer is none of Python's, and where it is ours has its three parts."""
    ours = "ltx23_core" in told or "Custom validation" in told
    return not any(raw in told for raw in RAW) and (not ours or ("Expected: " in told and "Next: " in told))


@pytest.mark.parametrize("name", NODES)
def test_wrong_values_are_answered_in_a_sentence(host: Host, name: str) -> None:
    bad = []
    for key in described(host, name):
        for value in WRONG:
            for told in answers(host, built(host, name, key, value)):
                if not is_sentence(told):
                    bad.append((key, value, told))
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.parametrize(("name", "key", "value", "words"), [
    ("LTX23NAG", "streams", "left", "streams is 'left'"), ("LTX23APG", "streams", "", "one of both, video, audio"),
    ("LTX23NAG", "scale", float("nan"), "scale is nan"), ("LTX23Sigmas", "schedule", "karras", "schedule is 'karras'"),
    ("LTX23Solver", "name", "dpm", "one of euler"), ("LTX23Retake", "start", 1e12, "Set start to 3600"),
    ("LTX23Retake", "end", float("inf"), "end is inf"), ("LTX23Load", "precision", "fp8", "one of auto, bf16, fp32"),
    ("LTX23LongVideo", "window", 8_000_001, "window is 8000001"), ("LTX23Load", "overlay", 5, "overlay is 5, no link"),
    ("LTX23LongVideo", "overlap_strength", float("nan"), "overlap_strength is nan"),
    ("LTX23ImageCondition", "placement", "behind", "one of auto, append"),
    ("LTX23ReferenceVoice", "identity_guidance", float("nan"), "identity_guidance is nan"),
    ("LTX23DecodeToFile", "filename_prefix", "x" * 300, "a name of 300 bytes"),
    ("LTX23DecodeToFile", "filename_prefix", "a:b", "has ':'"),
    ("LTX23DecodeToFile", "filename_prefix", "a/" * 3000 + "b", "a path of 6001 characters"),
    ("LTX23DecodeToFile", "filename_prefix", "%monat%/a", "the mark %monat%"),
    ("LTX23DecodeToFile", "filename_prefix", "a\0b", "a null character"),
    ("LTX23DecodeToFile", "filename_prefix", "CON/a", "a device on Windows"),
    ("LTX23Overlay", "checkpoint", "x" * 300, "is not in models/checkpoints")])
def test_what_is_known_before_is_refused_before(host: Host, name: str, key: str, value: Any, words: str) -> None:
    with pytest.raises(ClientError) as caught:
        host.client.queue(built(host, name, key, value))
    details = [each["details"] for each in caught.value.body["node_errors"]["node"]["errors"]]
    assert words in details[0] and "Next: " in details[0], details


def test_all_wrong_numbers_are_told_at_once(host: Host) -> None:
    graph = built(host, "LTX23Solver", "s_noise", -1.0)
    graph["node"]["inputs"] |= {"gamma": 99.0, "name": "dpm"}
    with pytest.raises(ClientError) as caught:
        host.client.queue(graph)
    errors = caught.value.body["node_errors"]["node"]["errors"]
    details = [error["details"] for error in errors]
    assert len(details) == 3
    for words in ("name is 'dpm'", "s_noise is -1.0", "gamma is 99.0"):
        assert sum(words in each for each in details) == 1


def test_a_good_run_follows(host: Host) -> None:
    assert host.client.run(graphs.workflow("quick_start", "after_wrong", frames=9)).ok
