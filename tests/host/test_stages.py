"""Recipes of two stages in one node and in several, batches, sound alone: through POST /prompt."""
from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_refusals import failure
from tests.host.test_workflows import load_latent, read_video

FILES = {"upsampler": graphs.UPSCALER, "distilled_lora": graphs.LORA}
SIZE = {"width": 128, "height": 64, "frames": 9}


def save(graph: Graph, link: list, key: str) -> None:
    graph[key] = {"class_type": "SaveLatent", "inputs": {"samples": link, "filename_prefix": f"latent/{key}"}}


@pytest.mark.parametrize("recipe", ["two_stage", "hq", "distilled"])
def test_two_stages_in_one_node_and_in_three_are_the_same(host: Host, recipe: str) -> None:
    graph = graphs.workflow("quick_start", "stages", recipe=recipe, **FILES, **SIZE,
                            steps=0 if recipe == "distilled" else 2)
    one = graphs.node_id(graph, "LTX23Sampler")
    model = graph[one]["inputs"]["model"]
    graph["51"] = {"class_type": "LTX23Sampler", "inputs": {**graph[one]["inputs"], "stages": "first"}}
    graph["52"] = {"class_type": "LTX23LatentUpscale", "inputs": {"model": model, "video": ["51", 0], "kind": "x2"}}
    graph["53"] = {"class_type": "LTX23Sampler", "inputs": {
        **graph[one]["inputs"], "stages": "second", "steps": 0, "start_video": ["52", 0], "start_audio": ["51", 1]}}
    for key, link in (("a", [one, 0]), ("b", ["53", 0]), ("c", [one, 1]), ("d", ["53", 1])):
        save(graph, link, key)
    run = host.client.run(graph)
    assert run.ok, run.error
    video, apart, sound, sound_apart = (load_latent(host.client.file(run.outputs[key]["latents"][0])) for key in "abcd")
    assert video.shape == (1, 8, 2, 2, 4)
    assert np.array_equal(video, apart) and np.array_equal(sound, sound_apart)


def test_a_batch_makes_several_files(host: Host) -> None:
    graph = graphs.workflow("quick_start", "batch/many", **{**SIZE, "frames": 17}, steps=1)
    sampler, decoder = (graphs.node_id(graph, name) for name in ("LTX23Sampler", "LTX23DecodeToFile"))
    graph[sampler]["inputs"] |= {"batch": 2, "seed": 300}
    run = host.client.run(graph)
    assert run.ok, run.error
    frames = [read_video(host.client.file(entry))[0] for entry in run.results()]
    assert [f.shape for f in frames] == [(17, 64, 128, 3)] * 2 and np.abs(frames[0] - frames[1].astype(float)).max() > 9
    assert (34, 34) in run.progress(decoder)
    names = [entry["filename"] for entry in run.results()]
    titles = [f"seed {300 + index}: {name}" for index, name in enumerate(names)]
    assert run.outputs[decoder]["text"] == titles
    assert [text.splitlines()[:2] for node, text in run.texts if node == decoder][-1] == titles
    graph[sampler]["inputs"] |= {"batch": 1, "seed": 301}
    [entry] = host.client.run(graph).results()
    assert np.array_equal(read_video(host.client.file(entry))[0], frames[1]), "the second is the run of seed + 1"


def test_sound_alone(host: Host) -> None:
    graph = graphs.workflow("text_to_video", "sound", frames=25, steps=2)
    sampler, decoder = (graphs.node_id(graph, name) for name in ("LTX23Sampler", "LTX23DecodeAudio"))
    graph = {key: node for key, node in graph.items()
             if node["class_type"] not in ("LTX23DecodeVideo", "CreateVideo", "SaveVideo")}


def test_a_latent_of_the_first_stage_must_be_upscaled(host: Host) -> None:
    graph = graphs.workflow("quick_start", "bad", recipe="distilled", steps=0, **FILES, **SIZE)
    sampler = graphs.node_id(graph, "LTX23Sampler")
    graph["51"] = {"class_type": "LTX23Sampler", "inputs": {**graph[sampler]["inputs"], "stages": "first"}}
    graph[sampler]["inputs"] |= {"stages": "second", "start_video": ["51", 0], "start_audio": ["51", 1]}
    assert "put Latent Upscale between the stages" in failure(host, graph, "LTX23Sampler")
