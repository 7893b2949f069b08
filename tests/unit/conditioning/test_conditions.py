"""Conditions: what they hold, where they put it, what they refuse; random chains."""
from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx23_core import (
    Audio,
    Extend,
    ImageCondition,
    Inpaint,
    ReferenceVideo,
    Retake,
    SourceAudio,
    SourceClip,
    SourceVideo,
    reference_scales,
)
from ltx23_core.conditioning.image import keyframes
from ltx23_core.conditioning.mask import latent_mask, visible
from ltx23_core.conditioning.reference import append_reference, kept_frames
from ltx23_core.errors import LTX23Error, MediaError, RequestError
from ltx23_core.geometry import VideoGrid
from ltx23_core.media.image import resize_and_crop, resize_frames
from ltx23_core.plan.condition import Clip
from ltx23_core.plan.together import check_conditions, source_waveform
from ltx23_core.sampling.solvers import euler
from ltx23_core.sampling.state import StreamState, map_streams, tokens_to_video, video_to_tokens

from ...support.conditions import CLIP, FakeEncoders, frames, plain, sound

# -- random chains ---------------------------------------------------------------------------------------------------

@st.composite
def chains(draw):
    count = draw(st.sampled_from([9, 17, 25]))
    clip = Clip(64, 64, count, draw(st.sampled_from([24.0, 25.0, 23.976])))
    longer = count + draw(st.integers(0, 9))
    source = SourceClip(frames(longer), sound(longer / clip.fps) if draw(st.booleans()) else None)
    kinds = ["none", "audio", "video", "retake", "inpaint", "extend", "join"]
    kind = draw(st.sampled_from(kinds))
    made = []
    if kind == "audio":
        made.append(SourceAudio(sound(draw(st.sampled_from([0.2, 1.0, 3.0])), 8000)))
    if kind == "video":
        made.append(SourceVideo(source))
    if kind == "retake":
        start = draw(st.floats(0, 0.3))
        which = draw(st.sampled_from(["both", "video", "audio"] if source.audio else ["both", "video"]))
        made.append(Retake(source, start, start + draw(st.floats(0.01, 0.5)), which))
    if kind == "inpaint":
        made.append(Inpaint(source, torch.rand(longer, 32, 48).round()))
    if kind in ("extend", "join"):
        short = SourceClip(frames(draw(st.integers(1, 8))), sound(0.3) if source.audio else None)
        made.append(Extend(short, blend=draw(st.integers(0, 2))))
    if kind == "join" and count > 9:
        made.append(Extend(SourceClip(frames(draw(st.integers(9, 12)))), "backward"))
    frozen_video = kind == "video" or (kind == "retake" and which == "audio")
    for _ in range(0 if frozen_video else draw(st.integers(0, 3))):
        strength, placement = draw(st.sampled_from([0.0, 0.5, 1.0])), draw(st.sampled_from(["auto", "append"]))
        made.append(ImageCondition(torch.rand(40, 30, 3), draw(st.integers(-count, count - 1)), strength, 0, placement))
    for _ in range(0 if frozen_video else draw(st.integers(0, 2))):
        made.append(ReferenceVideo(SourceClip(frames(draw(st.integers(1, 30)))), draw(st.sampled_from([0.5, 1.0])),
                                   draw(st.sampled_from([0.0, 0.5, 1.0])), downscale=draw(st.sampled_from([1, 2])),
                                   temporal=draw(st.sampled_from([1, 2]))))
    return clip, draw(st.permutations(made))


@settings(max_examples=120, deadline=None)
@given(chains())
def test_random_chains_keep_shapes_and_hold_exactly(chain):
    clip, conditions = chain
    states, stage = plain(clip)
    count = stage.grid.tokens
    for condition in check_conditions(conditions, clip):
        states = condition.apply(states, stage)
    video, audio = states
    total = video.clean.shape[1]
    appended = sum(c.placement == "append" or c.frame_in(clip.frames) != 0 for c in conditions
                   if isinstance(c, ImageCondition))
    references = sum(isinstance(c, ReferenceVideo) for c in conditions)
    assert total >= count + appended * stage.grid.height * stage.grid.width + references
    assert video.positions.shape == (1, 3, total, 2) and video.mask.shape == video.initial.shape[:2] + (1,)
    assert video.attention is None or video.attention.shape == (1, total, total)
    assert audio.clean.shape[1] == stage.audio_length
    assert all(((s.mask >= 0) & (s.mask <= 1)).all() for s in states)
    generator = torch.Generator().manual_seed(1)
    noise = map_streams(lambda s: torch.randn(s.clean.shape, generator=generator), states)
    x = map_streams(lambda s, n: s.noised(n, 1.0), states, noise)

    def model(streams, sigma, step):
        guess = map_streams(lambda part: torch.randn(part.shape, generator=generator), streams)
        return map_streams(lambda s, part: s.blend(part), states, guess)

    x = map_streams(lambda s, part: s.exact(part), states, euler(model, x, [1.0, 0.7, 0.3, 0.0]))
    for state, part in zip(states, x, strict=True):
        held = state.mask[0, :, 0] == 0
        assert torch.equal(part[0, held], state.clean[0, held])
        assert torch.isfinite(part).all()
    assert tokens_to_video(x[0], stage.grid).shape == (1, 3, stage.grid.frames, 2, 2)
    order = [c.order for c in check_conditions(conditions, clip)]
    assert order == sorted(order)


def test_order_of_kinds_does_not_depend_on_the_users():
    made = [ImageCondition(torch.rand(8, 8, 3), -1, crf=0), ReferenceVideo(SourceClip(frames(25)), 1.0, 0.5),
            Retake(SourceClip(frames(25), sound(2)), 0.2, 0.5), ImageCondition(torch.rand(8, 8, 3), 0, crf=0)]
    results = []
    for chain in (made, made[::-1]):
        states, stage = plain(CLIP)
        for condition in check_conditions(chain, CLIP):
            states = condition.apply(states, stage)
        results.append(states)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.clean, other.clean) and torch.equal(one.mask, other.mask)
        assert torch.equal(one.positions, other.positions)
    assert torch.equal(results[0][0].attention.dense(), results[1][0].attention.dense())


# -- sources ---------------------------------------------------------------------------------------------------------

def test_frames_are_resized_as_single_images_are():
    clip = torch.rand(19, 50, 70, 3)
    got = resize_frames(clip, [0, 3, 18, 3], 64, 96)
    want = torch.cat([resize_and_crop(clip[i], 64, 96) for i in (0, 3, 18, 3)], dim=2)
    assert got.shape == (1, 3, 4, 64, 96) and torch.equal(got, want)


@pytest.mark.parametrize(("count", "source", "fps", "want"), [
    (9, None, 24.0, range(9)), (9, 24.0, 24.0, range(9)), (8, 48.0, 24.0, (0, 2, 4, 6)),
    (4, 12.0, 24.0, (0, 0, 1, 1, 2, 2, 3, 3)), (6, 30.0, 25.0, (0, 1, 2, 4, 5))])
def test_frames_are_left_out_or_repeated_for_another_rate(count, source, fps, want):
    assert SourceClip(frames(count), fps=source).picks(fps) == tuple(want)


def test_sources_are_encoded_once_a_run():
    (_, stage), source = plain(CLIP), SourceClip(frames(30), sound(2))
    states, stage = plain(CLIP)
    first = Retake(source, 0.2, 0.4).apply(states, stage)
    again = Retake(source, 0.5, 0.7).apply(states, stage)
    assert len(stage.encoders.calls) == 2 and torch.equal(first[0].clean, again[0].clean)
    _, smaller = plain(CLIP, stage.encoders, shrink=2)
    Retake(source, 0.2, 0.4).apply(plain(CLIP, shrink=2)[0], replace(smaller, cache=stage.cache))
    assert [shape[3:] for shape in stage.encoders.calls if len(shape) == 5] == [(64, 64), (32, 32)]


def test_retake_in_a_later_stage_begins_from_the_stage_before():
    states, stage = plain(CLIP)
    before = replace(states[0], initial=torch.full_like(states[0].initial, 3.0))
    source = SourceClip(frames(25), sound(2))
    video, audio = Retake(source, 0.3, 0.6, "video").apply((before, states[1]), replace(stage, fresh=False))
    inside = video.mask[0, :, 0] == 1
    assert inside.any() and not inside.all()
    start = video.noised(torch.zeros_like(video.clean), 0.5)
    assert start[0, inside].eq(1.5).all() and torch.equal(start[0, ~inside], video.clean[0, ~inside])
    assert audio.frozen and audio.mask.eq(0).all() and audio.start_mask.eq(1).all()


def test_source_audio_is_cut_padded_and_kept_clean():
    states, stage = plain(CLIP)
    long, short = SourceAudio(sound(5, 48000, 1), start=1.0), SourceAudio(sound(0.5, 48000, 1), noise=0.01)
    for condition in (long, short):
        _, audio = condition.apply(states, stage)
        assert audio.frozen and audio.mask.eq(0).all() and audio.clean.shape == (1, 26, 8)
        waveform = source_waveform([condition], CLIP)
        assert waveform.waveform.shape == (1, 2, 50000) and waveform.sample_rate == 48000
    assert torch.equal(long.waveform(CLIP).waveform[0, 0], sound(5, 48000).waveform[0, 0, 48000:98000])
    kept = short.waveform(CLIP).waveform[0, 0]
    assert torch.equal(kept[:24000], short.audio.waveform[0, 0]) and kept[24000:].eq(0).all()
    heard = short._noisy(short.audio).waveform - short.audio.waveform
    assert heard.std().item() == pytest.approx(0.01, rel=0.05)
    assert max(stage.encoders.calls)[-1] <= (26 / 25 + 1) * 48000, "no more sound is encoded than the clip needs"


# -- extend ----------------------------------------------------------------------------------------------------------

def held_frames(state: StreamState, grid: VideoGrid) -> list[bool]:
    return (state.mask[0, :, 0].unflatten(0, (grid.frames, -1)) == 0).all(1).tolist()


@pytest.mark.parametrize(("count", "held"), [(9, 2), (12, 2), (17, 3), (1, 1)])
def test_extend_forward_puts_the_source_first(count, held):
    states, stage = plain(CLIP)
    condition = Extend(SourceClip(frames(count), sound(count / 24)))
    check_conditions([condition], CLIP)
    video, audio = condition.apply(states, stage)
    assert held_frames(video, stage.grid) == [i < held for i in range(4)]
    whole = [i for i in range(audio.clean.shape[1]) if audio.mask[0, i, 0] == 0]
    assert whole == list(range(int((8 * (held - 1) + 1) / 24 * 25 + 1e-6)))
    assert audio.clean[0, whole, 0].tolist() == whole


@pytest.mark.parametrize("count", [9, 12, 17, 20])
@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
def test_extend_backward_puts_the_source_last_with_its_sound_in_time(count, fps):
    clip = replace(CLIP, frames=41, fps=fps)
    states, stage = plain(clip)
    condition = Extend(SourceClip(frames(count), sound(count / fps)), "backward")
    check_conditions([condition], clip)
    video, audio = condition.apply(states, stage)
    held = (count - 1) // 8
    assert held_frames(video, stage.grid) == [i >= 6 - held for i in range(6)]
    seen = stage.encoders.pixels[0][0, 0, :, 0, 0]  # the frame before the held ones is the encoder's past
    levels = ((seen + 1) * 127.5).round().int().tolist()
    assert levels == list(range(count - 8 * held - 1, count))
    placed = [i for i in range(audio.clean.shape[1]) if audio.mask[0, i, 0] == 0]
    assert placed == list(range(placed[0], placed[-1] + 1))
    for index in placed:  # a latent's number times 0.04 s is its time in the source
        error = index * 0.04 - (audio.clean[0, index, 0].item() * 0.04 + (41 - count) / fps)
        assert abs(error) <= 0.02 + 1e-6
    begins = 0.04 * (placed[0] - 1) + 0.01
    assert abs(begins - (41 - 8 * held) / fps) <= 0.041 + 1e-6
    assert audio.clean.shape[1] - 1 - placed[-1] <= 1


def test_blend_lets_go_towards_the_seam():
    for direction in ("forward", "backward"):
        states, stage = plain(CLIP)
        source = SourceClip(frames(17), sound(17 / 24))
        video, audio = Extend(source, direction, blend=1).apply(states, stage)
        mask = video.mask[0, :, 0].unflatten(0, (4, -1))[:, 0].tolist()
        assert mask == ([0, 0, 0.5, 1] if direction == "forward" else [1, 1, 0.5, 0])
        soft = audio.mask[0, :, 0]
        ramp = [v for v in soft.tolist() if 0 < v < 1]
        assert len(ramp) == 8 and ramp == sorted(ramp, reverse=direction == "backward")


def test_two_clips_are_joined():
    states, stage = plain(CLIP)
    chain = check_conditions([Extend(SourceClip(frames(9)), "backward"), Extend(SourceClip(frames(9)))], CLIP)
    for condition in chain:
        states = condition.apply(states, stage)
    assert held_frames(states[0], stage.grid) == [True, True, False, True]


# -- masks and references --------------------------------------------------------------------------------------------

def test_a_cell_is_made_anew_if_any_of_its_pixels_is():
    mask = torch.zeros(17, 64, 96)
    mask[0, 0, 0], mask[5, 40, 33], mask[16, 63, 95] = 1, 1, 0.25
    got = latent_mask(mask, range(17), VideoGrid(3, 2, 3)).reshape(3, 2, 3)
    want = torch.zeros(3, 2, 3)
    want[0, 0, 0], want[1, 1, 1], want[2, 1, 2] = 1, 1, 0.25
    assert torch.equal(got, want)
    everywhere = latent_mask(mask[:1], range(17), VideoGrid(3, 2, 3)).reshape(3, 2, 3)
    assert torch.equal(everywhere, want[:1].expand(3, -1, -1))
    larger = latent_mask(torch.eye(2)[None], range(1), VideoGrid(1, 4, 4)).reshape(4, 4)
    assert torch.equal(larger, torch.kron(torch.eye(2), torch.ones(2, 2)))


def test_a_mask_is_cropped_as_its_frames_are():
    mask = torch.zeros(1, 100, 300)
    mask[:, :, :90] = 1
    assert visible(mask, 64, 64).shape == (1, 100, 100) and visible(mask, 64, 64).eq(0).all()


def test_reference_frames_and_a_mask_of_its_own():
    assert kept_frames(tuple(range(17)), 2) == (0, 1, 3, 5, 7, 9, 11, 13, 15)
    assert kept_frames(tuple(range(9)), 2) == (0,) and kept_frames(tuple(range(12)), 1) == tuple(range(9))
    states, stage = plain(CLIP)
    mask = torch.zeros(25, 64, 64)
    mask[:, :32] = 1
    reference = ReferenceVideo(SourceClip(frames(25)), attention_strength=0.5, mask=mask)
    video, _ = reference.apply(states, stage)
    seen = video.attention.dense()[0, 0, stage.grid.tokens:].reshape(4, 2, 2)
    assert seen[:, 0].eq(0.5).all() and seen[:, 1].eq(0).all()
    later, _ = reference.apply(states, replace(stage, number=2))
    assert later is states[0], "references act in stage 1 only"


def test_an_unmasked_reference_behind_a_masked_one_keeps_apart_from_it():
    states, stage = plain(CLIP)
    latent = torch.zeros(1, 3, 1, 2, 2)
    masked, free = (ReferenceVideo(SourceClip(frames(1)), attention_strength=s) for s in (0.5, 1.0))
    video = append_reference(append_reference(states[0], latent, 16, 24.0, masked), latent, 16, 24.0, free)
    assert video.attention.dense()[0, 16:20, 20:].eq(0).all() and video.attention.dense()[0, :16, 20:].eq(1).all()


def test_factors_of_a_lora(tmp_path):
    file = tmp_path / "lora.safetensors"
    header = json.dumps({"__metadata__": {"reference_downscale_factor": "2", "reference_temporal_scale_factor": "4"},
                         "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert reference_scales(file) == (2, 4) == reference_scales(str(file))
    assert reference_scales({}) == (1, 1) == reference_scales({"ss_reference_downscale_factor": "None"})
    assert reference_scales({"reference_spatial_scale_factor": "2.0", "reference_downscale_factor": "3"}) == (2, 1)
    with pytest.raises(MediaError, match="reference_downscale_factor '0.5'"):
        reference_scales({"reference_downscale_factor": "0.5"})


# -- refusals --------------------------------------------------------------------------------------------------------

PICTURE = torch.rand(8, 8, 3)
WHOLE = SourceClip(frames(25), sound(1.1))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: SourceClip(), "neither frames nor sound"),
    (lambda: SourceClip(torch.zeros(3, 4, 4)), r"frames have shape \(3, 4, 4\)"),
    (lambda: SourceClip(frames(2), fps=0), "0 frames a second"),
    (lambda: SourceClip(audio=Audio(torch.zeros(2, 2, 9), 8000)), r"sound has shape \(2, 2, 9\)"),
    (lambda: SourceClip(audio=Audio(torch.zeros(1, 0, 9), 8000)), r"waveform has shape \(1, 0, 9\)"),
    (lambda: ImageCondition(PICTURE, placement="behind"), "placement is 'behind'"),
    (lambda: keyframes(torch.rand(2, 8, 8, 3), [0], [1.0]), "2 keyframe images and 1 frame"),
    (lambda: keyframes(torch.rand(2, 8, 8, 3), [0, 8], [1.0, 1.0, 0.5]), "3 keyframe strengths"),
    (lambda: keyframes(torch.rand(2, 8, 8, 3), [0, 0], [1.0]), "same frame number"),
    (lambda: Retake(WHOLE, 2, 1), "2 to 1 seconds"),
    (lambda: Retake(WHOLE, 0, 1, "sound"), "regenerate is 'sound'"),
    (lambda: Retake(SourceClip(frames(25)), 0, 1, "audio"), "no sound of which"),
    (lambda: Retake(SourceClip(audio=sound(1)), 0, 1), "no frames of which"),
    (lambda: SourceVideo(SourceClip(audio=sound(1))), "Source Video has no frames"),
    (lambda: SourceAudio(sound(1), start=1.5), "begin at 1.5 s"),
    (lambda: SourceAudio(sound(1), noise=2), "noise on the source sound is 2"),
    (lambda: Extend(WHOLE, "up"), "direction of Extend is 'up'"),
    (lambda: Extend(WHOLE, blend=-1), "blend of Extend is -1"),
    (lambda: Inpaint(WHOLE, torch.zeros(3, 8, 8)), r"mask has shape \(3, 8, 8\)"),
    (lambda: Inpaint(WHOLE, torch.full((1, 8, 8), 2.0)), "values from 2 to 2"),
    (lambda: Inpaint(WHOLE, torch.full((1, 8, 8), torch.nan)), "values from nan"),
    (lambda: ReferenceVideo(WHOLE, attention_strength=1.5), "attention strength is 1.5"),
    (lambda: ReferenceVideo(WHOLE, downscale=0), "downscale factor is 0"),
    (lambda: ReferenceVideo(SourceClip(audio=sound(1))), "Reference Video has no frames")])
def test_what_cannot_be_made(make, words):
    with pytest.raises(LTX23Error, match=words):
        make()


@pytest.mark.parametrize(("chain", "clip", "words"), [
    ([ImageCondition(PICTURE)], replace(CLIP, video=False), "Image Condition needs the picture"),
    ([SourceAudio(sound(2))], replace(CLIP, audio=False), "Source Audio needs the sound"),
    ([SourceAudio(sound(2))], replace(CLIP, video=False), "makes nothing else"),
    ([SourceVideo(WHOLE)], replace(CLIP, audio=False), "makes nothing else"),
    ([Retake(WHOLE, 0, 1)], replace(CLIP, audio=False), "Retake needs the sound"),
    ([Retake(WHOLE, 2, 3)], CLIP, "begins at 2 s of a clip of 1.04 s"),
    ([Retake(SourceClip(frames(20)), 0, 1)], CLIP, "has 20 frames at 24 fps, the result 25.*Set frames to 17"),
    ([Inpaint(SourceClip(frames(20)), torch.ones(1, 8, 8))], CLIP, "clip of Inpaint has 20 frames"),
    ([Extend(SourceClip(frames(25)))], CLIP, "has 25 frames and the result 25.*at least 33"),
    ([Extend(SourceClip(frames(40)), "backward")], CLIP, "has 32 frames and the result 25.*at least 41"),
    ([Extend(SourceClip(frames(8)), "backward")], CLIP, "backward has 8 frames"),
    ([Extend(SourceClip(audio=sound(3)))], CLIP, "sound to extend lasts 3.00 s"),
    ([Extend(SourceClip(frames(9))), Extend(SourceClip(frames(9)))], CLIP, "two clips are extended forward"),
    ([Extend(SourceClip(frames(17))), Extend(SourceClip(frames(9)), "backward")], CLIP, "have 25 frames.*at least 33"),
    ([SourceVideo(WHOLE), Inpaint(WHOLE, torch.ones(1, 8, 8))], CLIP, "Source Video and Inpaint both decide"),
    ([SourceAudio(sound(2)), Retake(WHOLE, 0, 1)], CLIP, "Source Audio and Retake both decide the sound"),
    ([ImageCondition(PICTURE), SourceVideo(WHOLE)], CLIP, "Source Video keeps the picture.*Image Condition changes"),
    ([ReferenceVideo(WHOLE, downscale=4)], CLIP, "width of the stage that sees the reference is 64.*width to 128"),
    ([ReferenceVideo(WHOLE, downscale=2)], replace(CLIP, shrink=2), "is 32.*width to 128")])
def test_what_a_run_cannot_have(chain, clip, words):
    with pytest.raises(RequestError, match=words):
        check_conditions(chain, clip)


def test_what_is_left_out_is_said(caplog):
    caplog.set_level("INFO", "ltx23_core")
    check_conditions([Retake(SourceClip(frames(30)), 0.1, 0.5), ReferenceVideo(SourceClip(frames(27)))], CLIP)
    check_conditions([Extend(SourceClip(frames(12), sound(0.1)))], CLIP)
    check_conditions([SourceAudio(sound(0.5))], CLIP)
    text = "\n".join(record.getMessage() for record in caplog.records)
    for words in ("Retake: 5 frames at the end", "no sound, so sound is generated for all", "Reference Video: 2 frames",
                  "Extend: 3 frames of the clip next to the seam", "sound ends before its frames",
                  "Source Audio: the sound is 0.54 s shorter"):
        assert words in text, text


def test_tokens_of_the_fake_encoder_are_in_order():
    latent = FakeEncoders().encode_video(resize_frames(frames(17), range(17), 64, 64))
    assert torch.equal(video_to_tokens(latent).reshape(3, 2, 2, 3)[:, 0, 0], latent[0, :, :, 0, 0].T)
