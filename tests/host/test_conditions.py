"""Every condition node in a real server: what comes out, and what is refused in which words."""
from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
import torch

from ltx23_core.config import REFERENCE_SPATIAL
from ltx23_core.media.audio import Audio
from ltx23_core.media.video import write_video
from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_refusals import failure, refusal
from tests.host.test_workflows import read_video
from tools.example_files import add_media

SIZE = {"width": 64, "height": 64, "frames": 17, "steps": 1}
SECONDS = 17 / 24


@pytest.fixture(scope="module")
def film(host: Host) -> str:
    """A video of 25 frames at 24 fps with a tone, in the server's input folder."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(1, 12, 16, 3, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    chunk = (pixels * torch.linspace(0.3, 1, 25)[:, None, None, None]).clamp(0, 1)
    tone = 0.3 * torch.sin(torch.arange(50_000) * 2 * torch.pi * 440 / 48_000).expand(1, 2, -1)
    write_video(host.base.input / "film.mp4", [chunk], 24.0, Audio(tone.contiguous(), 48_000))
    return "film.mp4"


def built(prefix: str, condition: str, inputs: dict[str, Any], sources: Graph, **values: Any) -> Graph:
    """The quick start workflow with a condition node ("70") and what it takes."""
    graph = graphs.workflow("quick_start", f"conditions/{prefix}", **{**SIZE, **values})
    graph |= sources | {"70": {"class_type": condition, "inputs": inputs}}
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["conditions"] = ["70", 0]
    return graph


def parts(film: str) -> Graph:
    """The film as VIDEO ("60"), as frames (61, 0) and sound (61, 1); 20 small images ("62") and a mask ("63")."""
    return {"60": {"class_type": "LoadVideo", "inputs": {"file": film}},
            "61": {"class_type": "GetVideoComponents", "inputs": {"video": ["60", 0]}},
            "62": {"class_type": "EmptyImage", "inputs": {"width": 48, "height": 40, "batch_size": 2, "color": 255}},
            "63": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}}}


def used(sources: Graph, inputs: dict[str, Any]) -> Graph:
    """Only the source nodes that something links to."""
    found = {link[0] for link in inputs.values() if isinstance(link, list)}
    return {key: node for key, node in sources.items() if key in found or (key == "60" and "61" in found)}


VIDEO, IMAGES, AUDIO = ["60", 0], ["61", 0], ["61", 1]
CASES = {
    "keyframes": ("LTX23Keyframe", {"images": ["62", 0], "at_frames": "0, -1", "strengths": "1.0, 0.8",
                                    "placement": "append"}),
    "image": ("LTX23ImageCondition", {"image": ["62", 0], "frame": 0, "strength": 1.0, "crf": 33,
                                      "placement": "append"}),
    "reference": ("LTX23ReferenceVideo", {"strength": 1.0, "attention_strength": 0.5, "lora": graphs.LORA,
                                          "video": VIDEO, "mask": ["63", 0], "downscale": 2}),
    "source_video": ("LTX23SourceVideo", {"video": VIDEO}),
    "retake": ("LTX23Retake", {"start": 0.1, "end": 0.3, "regenerate": "both", "images": IMAGES, "audio": AUDIO}),
    "extend": ("LTX23Extend", {"direction": "forward", "blend": 0, "video": VIDEO, "source_fps": 48.0}),
    "extend_back": ("LTX23Extend", {"direction": "backward", "blend": 1, "images": ["62", 0], "source_fps": 4.0}),
    "inpaint": ("LTX23Inpaint", {"mask": ["63", 0], "images": IMAGES}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_condition_runs_and_the_length_is_exact(host: Host, film: str, name: str) -> None:
    node, inputs = CASES[name]
    run = host.client.run(built(name, node, inputs, used(parts(film), inputs), seed=len(name)))
    assert run.ok, run.error
    frames = read_video(host.client.file(run.results()[0]))[0]
    assert frames.shape == (17, 64, 64, 3)
    with av.open(str(host.client.file(run.results()[0]))) as file:
        assert abs(float(file.streams.audio[0].duration * file.streams.audio[0].time_base) - SECONDS) < 0.06


def test_source_audio_is_what_the_file_has(host: Host, film: str) -> None:
    inputs = {"audio": AUDIO, "start": 0.0, "noise": 0.005}
    graph = built("talk", "LTX23SourceAudio", inputs, used(parts(film), inputs))
    run = host.client.run(graph)
    assert run.ok, run.error
    with av.open(str(host.client.file(run.results()[0]))) as file:
        assert file.streams.video[0].frames == 17
        stream = file.streams.audio[0]
        wave = np.concatenate([frame.to_ndarray() for frame in file.decode(stream)], axis=1)
        assert stream.rate == 48_000 and abs(wave.shape[1] / 48_000 - SECONDS) < 0.05
    spectrum = np.abs(np.fft.rfft(wave[0, 4000:28_000] * np.hanning(24_000)))
    assert abs(spectrum.argmax() * 2 - 440) <= 4 and 0.2 < np.abs(wave[0, 4000:28_000]).max() < 0.4


def test_conditions_chain_through_three_nodes(host: Host, film: str) -> None:
    retake = {"start": 0.3, "end": 9.0, "regenerate": "both", "video": VIDEO}
    graph = built("chain", "LTX23Retake", {**retake, "conditions": ["71", 0]}, used(parts(film), retake))
    graph["62"] = parts(film)["62"]
    graph["71"] = {"class_type": "LTX23Keyframe", "inputs": {
        "images": ["62", 0], "at_frames": "9, 16", "strengths": "0.5", "placement": "auto", "conditions": ["72", 0]}}
    graph["72"] = {"class_type": "LTX23ReferenceVideo", "inputs": {
        "strength": 1.0, "attention_strength": 1.0, "lora": "none", "video": VIDEO}}
    run = host.client.run(graph)
    assert run.ok, run.error
    assert read_video(host.client.file(run.results()[0]))[0].shape == (17, 64, 64, 3)


@pytest.mark.parametrize(("node", "inputs", "words"), [
    ("LTX23Keyframe", {"images": ["62", 0], "at_frames": "0; 1", "strengths": "1", "placement": "auto"},
     "at_frames is '0; 1'"),
    ("LTX23Retake", {"start": 1.0, "end": 0.5, "regenerate": "both", "video": VIDEO},
     "end is 0.5 and start is 1 seconds"),
    ("LTX23ReferenceVideo", {"strength": 1.0, "attention_strength": 1.0, "lora": "gone.safetensors", "video": VIDEO},
     "'gone.safetensors', which is not in models/loras"),
])
def test_refused_before_the_run(host: Host, film: str, node: str, inputs: dict, words: str) -> None:
    details = refusal(host, built("bad", node, inputs, used(parts(film), inputs)))
    assert words in details[node][0] and "Next: " in details[node][0]


@pytest.mark.parametrize(("node", "inputs", "values", "where", "words"), [
    ("LTX23Keyframe", {"images": ["62", 0], "at_frames": "0", "strengths": "1", "placement": "auto"}, {},
     "LTX23Keyframe", "2 keyframe images and 1 frame numbers"),
    ("LTX23SourceVideo", {}, {}, "LTX23SourceVideo", "neither frames nor sound"),
    ("LTX23Retake", {"start": 0.0, "end": 0.5, "regenerate": "both", "video": VIDEO}, {"frames": 33},
     "LTX23Sampler", "the clip of Retake has 25 frames at 24 fps, the result 33"),
    ("LTX23Extend", {"direction": "forward", "blend": 0, "video": VIDEO}, {"frames": 25},
     "LTX23Sampler", "Set frames to at least 33"),
    ("LTX23SourceAudio", {"audio": AUDIO, "start": 9.0, "noise": 0.0}, {}, "LTX23SourceAudio", "begin at 9 s"),
    ("LTX23ReferenceVideo", {"strength": 1.0, "attention_strength": 1.0, "lora": "none", "video": VIDEO,
                             "downscale": 3}, {}, "LTX23Sampler", "Set width to 96"),
    ("LTX23Inpaint", {"mask": ["63", 0], "images": ["62", 0]}, {}, "LTX23Sampler", "the clip of Inpaint has 2 frames"),
])
def test_refused_in_the_run(host: Host, film: str, node: str, inputs: dict, values: dict, where: str,
                            words: str) -> None:
    assert words in failure(host, built("bad", node, inputs, used(parts(film), inputs), **values), where)


def test_a_condition_on_a_stream_that_is_not_made(host: Host, film: str) -> None:
    inputs = {"video": VIDEO}
    graph = built("bad", "LTX23SourceVideo", inputs, used(parts(film), inputs))
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["streams"] = "audio"
    assert "Source Video needs the picture in a run that makes none" in failure(host, graph, "LTX23Sampler")


def test_the_linked_model_says_how_its_ic_lora_was_trained(host: Host) -> None:
    """Reference Video with the model behind the LoRA node: the result of choosing the LoRA in both."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    add_media(host.base.input)
    half = host.models[graphs.LORA].with_name("half-reference.safetensors")
    with safe_open(host.models[graphs.LORA], "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        save_file(tensors, half, {**(file.metadata() or {}), REFERENCE_SPATIAL[0]: "2"})
    try:
        frames = {}
        for name, chosen in {"model": "none", "twice": half.name, "plain": "none"}.items():
            graph = graphs.workflow("ic_lora", f"linked-{name}", lora=half.name, width=256, height=128, frames=9)
            reference = graph[graphs.node_id(graph, "LTX23ReferenceVideo")]["inputs"]
            reference["lora"] = chosen
            if name == "plain":
                del reference["model"]
            run = host.client.run(graph)
            assert run.ok, run.error
            frames[name] = read_video(host.client.file(run.results()[0]))[0]
        assert np.array_equal(frames["model"], frames["twice"])
        assert not np.array_equal(frames["model"], frames["plain"]), "the reference was encoded at half size"
    finally:
        half.unlink()
