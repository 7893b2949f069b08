"""What goes out: names with marks, batches and single streams, old leftovers, clips that lack what is asked."""
from __future__ import annotations

import os
import time
from typing import Any

import av
import pytest
import torch

from ltx23_core.media.video import write_video
from tests.conftest import Host
from tests.host import graphs
from tests.host.client import Graph
from tests.host.test_conditions import built
from tests.host.test_refusals import failure

SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 1}


def quick(prefix: str, **values: Any) -> Graph:
    return graphs.workflow("quick_start", prefix, **{**SMALL, **values})


def test_marks_are_in_words_and_folders_are_made(host: Host) -> None:
    days = [time.strftime("%Y-%m-%d")]
    run = host.client.run(quick("marks/%date:yyyy-MM-dd%/s%LTX23Sampler.seed%_%width%", seed=77))
    assert run.ok, run.error
    [entry] = run.results()
    days.append(time.strftime("%Y-%m-%d"))  # it may be midnight meanwhile
    assert entry["subfolder"] in [f"marks/{day}" for day in days] and entry["filename"] == "s77_64_00001_.mp4"
    assert host.client.file(entry).stat().st_size > 0


def test_sound_alone_goes_to_a_sound_file(host: Host) -> None:
    graph = quick("alone/sound")
    graph[graphs.node_id(graph, "LTX23Sampler")]["inputs"]["streams"] = "audio"
    run = host.client.run(graph)
    assert run.ok, run.error
    [entry] = run.results("audio")
    with av.open(str(host.client.file(entry))) as file:
        assert entry["filename"].endswith(".m4a") and not file.streams.video and file.streams.audio[0].rate == 48000


def repeated(host: Host, prefix: str, video: int, audio: int) -> Graph:
    """The quick start workflow with its latents repeated before the file."""
    graph = quick(prefix)
    decoder, sampler = (graphs.node_id(graph, name) for name in ("LTX23DecodeToFile", "LTX23Sampler"))
    for key, slot, count in (("video", 0, video), ("audio", 1, audio)):
        graph[f"r{key}"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": [sampler, slot], "amount": count}}
        graph[decoder]["inputs"][key] = [f"r{key}", 0]
    return graph


def test_one_sound_serves_all_videos_of_a_batch(host: Host) -> None:
    run = host.client.run(repeated(host, "batch/one", 2, 1))
    assert run.ok, run.error
    for entry in run.results():
        with av.open(str(host.client.file(entry))) as file:
            assert file.streams.audio and file.streams.video[0].frames == 9
    assert len(run.results()) == 2


@pytest.mark.parametrize(("video", "audio"), [(1, 2), (2, 3), (3, 2)])
def test_numbers_that_differ_are_refused_before_the_first_file(host: Host, video: int, audio: int) -> None:
    message = failure(host, repeated(host, f"batch/no{video}{audio}", video, audio), "LTX23DecodeToFile")
    assert f"the video latent has {video} samples and the audio latent {audio}" in message
    assert not list((host.base.output / "batch").glob(f"no{video}{audio}*"))


def test_old_leftovers_are_swept_and_young_ones_kept(host: Host) -> None:
    folder = host.base.output / "swept"
    folder.mkdir()
    files = [folder / f".a_0000{n}_.mp4.999999999-0a0b0c0d.part" for n in (1, 2)]
    for file, age in zip(files, (3 * 86_400, 60), strict=True):
        file.write_bytes(b"")
        os.utime(file, (time.time() - age,) * 2)
    assert host.client.run(quick("swept/a")).ok
    assert [file.exists() for file in files] == [False, True]


@pytest.mark.parametrize("node", ["LTX23SourceAudio", "LTX23ReferenceVoice"])
def test_a_clip_without_sound_is_refused_in_words(host: Host, node: str) -> None:
    write_video(host.base.input / "silent.mp4", [torch.rand(9, 64, 64, 3)], 24)
    sources = {"60": {"class_type": "LoadVideo", "inputs": {"file": "silent.mp4"}},
               "61": {"class_type": "GetVideoComponents", "inputs": {"video": ["60", 0]}}}
    inputs = {"audio": ["61", 1], "start": 0.0, "noise": 0.0, "identity_guidance": 1.0}
    known = host.client.node_info(node)["input"]["required"]
    graph = built("silent", node, {key: value for key, value in inputs.items() if key in known}, sources, **SMALL)
    assert "the clip that is linked to audio has no sound" in failure(host, graph, node)


@pytest.mark.parametrize("fps", [23.976, 29.97, 59.94])
def test_every_frame_of_an_ntsc_clip_is_there(host: Host, fps: float) -> None:
    """33 frames in are 33 frames: Retake, whose clip must be as long as the result, takes it."""
    write_video(host.base.input / "ntsc.mp4", [torch.rand(33, 64, 64, 3)], fps)
    sources = {"60": {"class_type": "LoadVideo", "inputs": {"file": "ntsc.mp4"}}}
    inputs = {"start": 0.1, "end": 0.2, "regenerate": "video", "video": ["60", 0]}
    values = {**SMALL, "frames": 33, "fps": fps}
    run = host.client.run(built(f"ntsc{fps:.0f}", "LTX23Retake", inputs, sources, **values))
    assert run.ok, run.error
    with av.open(str(host.client.file(run.results()[0]))) as file:
        assert file.streams.video[0].frames == 33
        assert abs(float(file.streams.video[0].average_rate) - fps) < 1e-3


def test_a_voice_goes_through_the_nodes(host: Host) -> None:
    sources = {"60": {"class_type": "EmptyAudio", "inputs": {"duration": 2.0, "sample_rate": 22050, "channels": 1}}}
    run = host.client.run(built("voice", "LTX23ReferenceVoice", {"audio": ["60", 0], "identity_guidance": 1.0}, sources,
                                **SMALL))
    assert run.ok, run.error
