"""Conditions in runs of the tiny model: what is held comes out bit for bit, in one stage, two, windows and batches."""
from __future__ import annotations

import pytest
import torch

from ltx23_core import (
    Audio,
    Extend,
    ImageCondition,
    Inpaint,
    Pipeline,
    ReferenceVideo,
    Retake,
    SourceAudio,
    SourceClip,
    SourceVideo,
)
from ltx23_core.decode.tiles import auto_tiling, tiled_encode
from ltx23_core.media.image import resize_frames
from ltx23_core.plan.windows import Windows
from ltx23_core.sampling.solve import Solver

SMALL = {"width": 64, "height": 64, "frames": 17, "steps": 1, "seed": 3}


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


@pytest.fixture(scope="module")
def film():
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(20, 48, 80, 3, generator=generator)
    return SourceClip(pixels, Audio(torch.rand(1, 1, 40000, generator=generator) - 0.5, 44100))


def encoded(pipe, clip: SourceClip, size: int, count: int = 17) -> torch.Tensor:
    return pipe.encode_video(resize_frames(clip.frames, range(count), size, size))


def test_a2v_holds_the_sound_and_hands_on_the_original(tiny_pipeline, pair, film, tmp_path):
    condition = SourceAudio(film.audio)
    first = tiny_pipeline.sample(pair, conditions=[condition], **SMALL)
    other = tiny_pipeline.sample(pair, conditions=[condition], **{**SMALL, "seed": 4})
    assert torch.equal(first.audio, other.audio) and not torch.allclose(first.video, other.video, atol=0.1)
    assert first.waveform.waveform.shape == (1, 2, round(17 / 24 * 44100)) and first.audio.shape == (1, 2, 18, 16)
    import av
    path = tiny_pipeline.decode_to_file(first, tmp_path / "talk.mp4")
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 17 and file.streams.audio[0].rate == 44100


def test_v2a_holds_the_picture(tiny_pipeline, pair, film):
    result = tiny_pipeline.sample(pair, conditions=[SourceVideo(film)], **SMALL)
    assert torch.equal(result.video, encoded(tiny_pipeline, film, 64)) and result.waveform is None
    assert result.audio.std() > 0.1


def test_retake_holds_the_rest_in_both_stages(tiny_pipeline, pair, film, monkeypatch):
    calls = []
    real = type(tiny_pipeline).encode_video
    monkeypatch.setattr(type(tiny_pipeline), "encode_video", lambda self, p: calls.append(p.shape) or real(self, p))
    size = {**SMALL, "width": 128, "height": 128, "steps": None}
    result = tiny_pipeline.sample(pair, recipe="distilled", conditions=[Retake(film, 0.1, 0.2)], batch=2, **size)
    assert [tuple(c[3:]) for c in calls] == [(64, 64), (128, 128)], "once a size, for both samples"
    monkeypatch.undo()
    want = encoded(tiny_pipeline, film, 128)
    assert result.video.shape == (2, 8, 3, 4, 4)
    for video in result.video:
        assert torch.equal(video[:, 0], want[0, :, 0]) and torch.equal(video[:, 2], want[0, :, 2])
        assert not torch.allclose(video[:, 1], want[0, :, 1], atol=0.05)
    assert torch.equal(result.audio[0, :, :3], result.audio[1, :, :3])
    assert not torch.allclose(result.audio[0, :, 3:5], result.audio[1, :, 3:5], atol=0.05)


@pytest.mark.parametrize("which", ["video", "audio"])
def test_a_stream_that_is_not_retaken_is_its_source(tiny_pipeline, pair, film, which):
    result = tiny_pipeline.sample(pair, conditions=[Retake(film, 0.1, 9, which)], **SMALL)
    other = tiny_pipeline.sample(pair, conditions=[SourceVideo(film) if which == "audio" else SourceAudio(film.audio)],
                                 **SMALL)
    if which == "audio":
        assert torch.equal(result.video, other.video) and not torch.equal(result.audio, other.audio)
    else:
        assert torch.allclose(result.audio, other.audio, atol=1e-4) and not torch.equal(result.video, other.video)


def test_everything_at_once_on_the_model(tiny_pipeline, pair, film):
    short = SourceClip(film.frames[:9], film.audio)
    chain = [ReferenceVideo(film, 0.9, 0.5, downscale=2), ImageCondition(torch.rand(30, 30, 3), -1),
             Extend(short, blend=1), ImageCondition(torch.rand(30, 30, 3), 5, 0.7, placement="append")]
    result = tiny_pipeline.sample(pair, conditions=chain, **SMALL)
    assert result.video.shape == (1, 8, 3, 2, 2) and result.audio.shape == (1, 2, 18, 16)
    want = encoded(tiny_pipeline, short, 64, 9)
    assert torch.equal(result.video[:, :, 0], want[:, :, 0]) and not torch.equal(result.video[:, :, 1], want[:, :, 1])


def test_sound_alone_is_extended_and_retaken(tiny_pipeline, pair):
    given = Audio(torch.rand(1, 2, 6400) - 0.5, 16000)
    want = tiny_pipeline.encode_audio(given)[:, :, :9]
    longer = tiny_pipeline.sample(pair, streams="audio", conditions=[Extend(SourceClip(audio=given))], **SMALL)
    assert longer.video is None and longer.audio.shape == (1, 2, 18, 16)
    assert torch.allclose(longer.audio[:, :, :9], want, atol=1e-4)
    again = tiny_pipeline.sample(pair, streams="audio", conditions=[
        Retake(SourceClip(audio=given), 0.2, 0.3, "audio")], **{**SMALL, "frames": 9})
    assert torch.allclose(again.audio[:, :, :5], want[:, :, :5], atol=1e-4)
    assert not torch.allclose(again.audio[:, :, 6:8], want[:, :, 6:8], atol=0.05)


def test_single_pictures_are_encoded_whole(tiny_pipeline):
    pixels = torch.rand(1, 3, 1, 32, 1024) * 2 - 1
    with torch.no_grad():
        want = tiny_pipeline._use("video_encoder")[0](pixels)
    assert torch.equal(tiny_pipeline.encode_video(pixels), want)


def test_a_long_video_holds_a_source_in_every_window(tiny_pipeline, pair, tmp_path):
    clip = SourceClip(torch.rand(49, 32, 32, 3), Audio(torch.rand(1, 2, 33000) - 0.5, 16000))
    size = {**SMALL, "width": 32, "height": 32, "frames": 49}
    result = tiny_pipeline.sample(pair, conditions=[Retake(clip, 0.9, 1.2, "video")],
                                  windows=Windows(33, 8, resume=tmp_path), **size)
    want = encoded(tiny_pipeline, clip, 32, 49)
    held = [i for i in range(7) if (8 * i + 1) / 24 <= 0.9 or max(0, 8 * i - 7) / 24 >= 1.2]
    assert len(held) == 5 and torch.equal(result.video[:, :, held], want[:, :, held])
    other = tiny_pipeline.encode_audio(clip.audio)[:, :, :51]
    assert result.audio.shape[2] == 51 and torch.allclose(result.audio[:, :, :50], other[:, :, :50], atol=1e-3)


def test_inpaint_holds_what_is_not_marked(tiny_pipeline, pair, film):
    mask = torch.zeros(1, 48, 80)
    mask[:, :, 45:] = 1  # of the visible middle, the right half
    result = tiny_pipeline.sample(pair, conditions=[Inpaint(film, mask), SourceAudio(film.audio)], **SMALL)
    want = encoded(tiny_pipeline, film, 64)
    assert torch.equal(result.video[..., 0], want[..., 0])
    assert not torch.allclose(result.video[..., 1], want[..., 1], atol=0.05)


def test_long_clips_are_encoded_in_the_official_tiles(tiny_pipeline):
    pixels = torch.rand(1, 3, 97, 32, 32) * 2 - 1
    encoder = tiny_pipeline._use("video_encoder")[0]
    sizes = []

    def counted(tile):
        sizes.append(tile.shape[2])
        return encoder(tile)

    with torch.no_grad():
        want = tiled_encode(counted, pixels, auto_tiling((13, 1, 1)))
    assert sizes == [73, 49]
    assert torch.equal(tiny_pipeline.encode_video(pixels), want) and want.shape == (1, 8, 13, 1, 1)


@pytest.mark.parametrize("solver", ["euler", "res_2s"])
def test_bfloat16_holds_as_exactly(tiny_overlay, film, solver):
    pipe = Pipeline(tiny_overlay, device="cpu", dtype="bf16")
    context = pipe.encode("a boat", "noise")
    result = pipe.sample(context, recipe="custom", solver=Solver(solver), conditions=[Retake(film, 0.1, 0.2, "video")],
                         **{**SMALL, "steps": 2})
    want = pipe.encode_video(resize_frames(film.frames, range(17), 64, 64, torch.bfloat16))
    assert result.video.dtype == torch.bfloat16 and torch.equal(result.video[:, :, [0, 2]], want[:, :, [0, 2]])
    other = pipe.sample(context, recipe="custom", conditions=[SourceAudio(film.audio)], **SMALL)
    assert (result.audio - other.audio).abs().max() < 0.05  # two ways of cutting the sound, one rounding
