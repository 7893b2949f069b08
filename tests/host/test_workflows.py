"""Every shipped workflow through POST /prompt: what the client sees on the way, and what lies in the file."""
from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph, Run
from tools.example_files import add_media

SOUND_ALONE = "text_to_audio"
WITH_PICTURE = [name for name in graphs.NAMES if name != SOUND_ALONE]


@pytest.fixture(scope="session")
def media(host: Host) -> None:
    """What the workflows load, in the server's input folder."""
    add_media(host.base.input)


@pytest.fixture(scope="session")
def runs(host: Host, media: None) -> Callable[[str], tuple[Graph, Run]]:
    """Run each workflow once a session."""
    done: dict[str, tuple[Graph, Run]] = {}

    def run(name: str) -> tuple[Graph, Run]:
        if name not in done:
            graph = graphs.workflow(name, f"shipped/{name}")
            done[name] = graph, host.client.run(graph)
        assert done[name][1].ok, done[name][1].error
        return done[name]

    return run


def read_video(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Frames (F, H, W, 3) uint8, sound (2, n) float32, and facts about the streams."""
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        facts = {"fps": video.average_rate, "rate": audio.rate, "channels": audio.layout.nb_channels,
                 "seconds": float(video.duration * video.time_base), "tags": dict(file.metadata),
                 "codecs": (video.codec_context.name, audio.codec_context.name)}
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video)])
        file.seek(0)
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio)], axis=1)
    return frames, sound, facts


def read_sound(path: Path) -> np.ndarray:
    """Sound (2, n) float32 of a file without a picture, at 48 kHz."""
    with av.open(str(path)) as file:
        assert file.streams.audio[0].rate == 48000
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=48000)
        blocks = [out.to_ndarray() for frame in file.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize("name", WITH_PICTURE)
def test_file(host: Host, runs: Callable, name: str) -> None:
    _, run = runs(name)
    [entry] = run.results()
    frames, sound, facts = read_video(host.client.file(entry))
    assert frames.shape == (*graphs.shape_of(name), 3)
    seconds = len(frames) / 24
    assert facts["fps"] == 24 and facts["seconds"] == pytest.approx(seconds, abs=0.01)
    assert facts["channels"] == 2 and facts["rate"] == 48000
    assert facts["codecs"][0] in ("h264", "libx264") and facts["codecs"][1] == "aac"
    assert frames.std() > 2 and np.abs(np.diff(frames.astype(float), axis=0)).max() > 2, "the picture stands still"
    assert np.isfinite(sound).all() and sound.std() > 1e-5 and np.abs(sound[0] - sound[1]).max() > 0
    assert sound.shape[1] / 48000 == pytest.approx(seconds, abs=0.05)


def test_sound_alone(host: Host, runs: Callable) -> None:
    graph, run = runs(SOUND_ALONE)
    [entry] = run.outputs[graphs.node_id(graph, "SaveAudio")]["audio"]
    sound = read_sound(host.client.file(entry))
    assert np.isfinite(sound).all() and sound.std() > 1e-5
    assert sound.shape[1] / 48000 == pytest.approx(17 / 24, abs=0.05)


@pytest.mark.parametrize("name", graphs.NAMES)
def test_a_workflow_has_at_most_ten_nodes(name: str) -> None:
    ui = json.loads(graphs.ui_file(name).read_text(encoding="utf-8"))
    assert len(ui["nodes"]) <= 10, "the note counts, too"


@pytest.mark.parametrize("name", WITH_PICTURE)
def test_dropping_the_file_brings_the_graph_back(host: Host, runs: Callable, name: str) -> None:
    graph, run = runs(name)
    _, _, facts = read_video(host.client.file(run.results()[0]))
    saved = json.loads(facts["tags"]["prompt"])
    assert str(host.base.models) not in facts["tags"]["prompt"], "paths of the user in a file that gets shared"
    assert {key: {part: node[part] for part in graph[key]} for key, node in saved.items()} == graph


@pytest.mark.parametrize("name", graphs.NAMES)
def test_order_of_events(runs: Callable, name: str) -> None:
    graph, run = runs(name)
    kinds = [event.type for event in run.events if event.type.startswith("execution")]
    assert kinds[0] == "execution_start" and kinds[-1] == "execution_success"
    twins = {key for key, node in graph.items() for other in run.executed if graph[other] | {"_meta": 0} == node | {
        "_meta": 0}}  # of equal nodes ComfyUI runs one
    assert set(run.executed) | run.cached | twins == set(graph)
    # The Sampler stands there twice: it plans, and refuses, before its lazy inputs run.
    finished = {node: place for place, node in enumerate(run.executed)}
    for node in finished:
        for value in graph[node]["inputs"].values():
            if isinstance(value, list) and value[0] in finished:
                assert finished[value[0]] < finished[node]
    assert run.history["status"]["status_str"] == "success"


@pytest.mark.parametrize("name", WITH_PICTURE)
def test_progress_and_previews(runs: Callable, name: str) -> None:
    graph, run = runs(name)
    sampler, total = graphs.node_id(graph, "LTX23Sampler"), graphs.steps_of(name)
    frames, height, width = graphs.shape_of(name)
    steps = [value for value, high in run.progress(sampler) if high == total]
    assert steps == sorted(steps) and steps[-1] == total, "the bar never goes back, and comes to its end"
    images = [event for event in run.previews if event.data["node_id"] == sampler]
    assert 1 <= len(images) <= total, "at most a hundredth of the time goes into previews"
    latent_frames = (graphs.values_of(name).get("window", frames) - 1) // 8 + 1
    columns = math.ceil(math.sqrt(latent_frames))
    rows = math.ceil(latent_frames / columns)
    for event in images:
        image = Image.open(io.BytesIO(event.image))
        assert image.format == "JPEG", "all frames side by side"
        assert (image.width / columns) / (image.height / rows) == pytest.approx(width / height, rel=0.05)
    said = [text for node, text in run.texts if node == sampler]
    line = rf"{width}x{height} · {frames / 24:.2f} s · (stage ./. · )?step \d+/\d+ · [0-9.]+ s/step · \d+:\d\d left"
    assert any(re.match(line, text) for text in said), said
    told = [int(found[1]) for text in said if (found := re.search(r"step (\d+)/", text))]
    assert set(told) >= set(range(1, max(told) + 1)), "a line for each step; of the bar newer hosts leave ticks out"
    assert re.match(r"made in \d+\.\d s", said[-1]), said[-1]
    decoder = graphs.node_id(graph, "LTX23DecodeVideo" if name == "text_to_video" else "LTX23DecodeToFile")
    assert (frames, frames) in run.progress(decoder)


def test_overlay_reports_in_the_node(host: Host) -> None:
    graph = graphs.workflow("quick_start", "report", variant="dev", upsampler="none", frames=9)
    run = host.client.run(graph)
    text = run.outputs[graphs.node_id(graph, "LTX23Overlay")]["text"][0]
    assert graphs.CHECKPOINT in text and "no upsampler_x2" in text and "latent_upscale_models" in text


def test_image_condition_is_the_first_latent_frame(host: Host, media: None) -> None:
    """What holds on random weights too: at strength 1 the first latent frame is the encoded picture, untouched.

    Two seeds give different videos whose first latent frames agree exactly, and another picture gives another one.
    """
    graph = graphs.workflow("image_to_video", "latent")
    sampler = graphs.node_id(graph, "LTX23Sampler")
    saved = {**{key: node for key, node in graph.items() if node["class_type"].startswith(("LTX23", "LoadImage"))},
             "90": {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latent/i2v"}}}
    latents = {}
    for key, changes in {"a": {}, "b": {"seed": 11}, "free": {"strength": 0.0}}.items():
        run = host.client.run(graphs.with_values(saved, **changes))
        assert run.ok, run.error
        latents[key] = load_latent(host.client.file(run.outputs["90"]["latents"][0]))
    assert latents["a"].shape == (1, 8, 3, 2, 3)
    assert np.array_equal(latents["a"][:, :, 0], latents["b"][:, :, 0])
    assert not np.array_equal(latents["a"][:, :, 1:], latents["b"][:, :, 1:])
    assert np.abs(latents["a"][:, :, 0] - latents["free"][:, :, 0]).max() > 0.05


def load_latent(path: Path) -> np.ndarray:
    from safetensors.numpy import load_file
    return load_file(path)["latent_tensor"]


def test_two_stages(host: Host) -> None:
    """The distilled recipe: dev weights, the distilled LoRA and the upscaler; 8 + 3 steps, size doubled between."""
    graph = graphs.workflow("quick_start", "distilled", recipe="distilled", width=128, height=64, steps=0,
                            upsampler=graphs.UPSCALER, distilled_lora=graphs.LORA)
    run = host.client.run(graph)
    assert run.ok, run.error
    assert (11, 11) in run.progress(graphs.node_id(graph, "LTX23Sampler"))
    frames, _, _ = read_video(host.client.file(run.results()[0]))
    assert frames.shape == (17, 64, 128, 3)


def test_guidance_and_sigmas(host: Host) -> None:
    """Guidance replaces the official strengths; SIGMAS of a core node replace the schedule."""
    graph = graphs.workflow("quick_start", "guided")
    sampler = graphs.node_id(graph, "LTX23Sampler")
    values = {"cfg": 2.0, "stg": 0.0, "modality": 1.0, "rescale": 0.0, "stg_blocks": ""}
    strengths = {f"{what}_{name}": value for what in ("video", "audio") for name, value in values.items()}
    graph["20"] = {"class_type": "LTX23Guidance", "inputs": strengths}
    graph["21"] = {"class_type": "KarrasScheduler",
                   "inputs": {"steps": 4, "sigma_max": 1.0, "sigma_min": 0.1, "rho": 7.0}}
    graph[sampler]["inputs"] |= {"guidance": ["20", 0], "sigmas": ["21", 0]}
    run = host.client.run(graph)
    assert run.ok, run.error
    assert (4, 4) in run.progress(sampler)
