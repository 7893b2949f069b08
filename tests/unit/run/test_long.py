"""Long video: windows over the timeline, what is held, seams, resuming."""
from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltx23_core import ImageCondition
from ltx23_core.errors import RequestError
from ltx23_core.geometry import VideoGrid, audio_latent_length, video_positions
from ltx23_core.plan.condition import Clip
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.plan.settings import Settings
from ltx23_core.plan.windows import Windows, first_frame, plan_windows, prompts_of
from ltx23_core.run.fingerprint import fingerprint
from ltx23_core.run.resume import Progress
from ltx23_core.run.stage import Job, Runner

SIZE = {"width": 64, "height": 64, "fps": 24.0, "seed": 3}
SHORT = Windows(length=33, overlap=8)


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


@given(total=st.integers(0, 60), length=st.integers(1, 20), shared=st.integers(1, 19), fps=st.floats(5, 60))
def test_windows_cover_the_timeline_in_order(total, length, shared, fps):
    frames, window, overlap = 8 * total + 1, 8 * length + 1, 8 * shared
    if total > length and shared >= length + 1:
        with pytest.raises(RequestError, match="overlap is"):
            plan_windows(frames, fps, window, overlap)
        return
    windows = plan_windows(frames, fps, window, overlap)
    assert windows[0].video[0] == windows[0].audio[0] == 0 and windows[0].held == (0, 0)
    assert windows[-1].video[1] == total + 1 and windows[-1].audio[1] == audio_latent_length(frames, fps)
    for before, after in zip(windows, windows[1:], strict=False):
        assert after.frames == before.frames == length + 1, "every window is a clip of the same length"
        assert after.video[0] + after.held[0] == before.video[1] and after.held[0] >= shared
        assert after.audio[0] + after.held[1] == before.audio[1] and after.held[1] >= 0
        seconds = first_frame(after.video[0]) / fps
        assert abs(after.audio[0] / 25 - seconds) <= 0.02 + 1e-9, "sound begins with the picture"


def test_what_fits_one_window_is_an_ordinary_run(tiny_pipeline, pair):
    for recipe in ("one_stage", "distilled", "hq"):
        steps = {} if RECIPES[recipe].stages[0].sigmas else {"steps": 2}
        plain = tiny_pipeline.sample(pair, recipe=recipe, frames=25, **SIZE, **steps)
        long = tiny_pipeline.sample(pair, recipe=recipe, frames=25, windows=Windows(25, 8), **SIZE, **steps)
        assert torch.equal(plain.video, long.video) and torch.equal(plain.audio, long.audio)


def test_lengths_are_exact_and_steps_are_counted(tiny_pipeline, pair):
    seen = []
    latents = tiny_pipeline.sample(pair, recipe="distilled", frames=81, windows=SHORT, on_step=seen.append, **SIZE)
    assert latents.video.shape == (1, 8, 11, 2, 2) and latents.audio.shape[2] == audio_latent_length(81, 24.0)
    assert latents.video.isfinite().all() and latents.audio.isfinite().all()
    windows = len(plan_windows(81, 24.0, 33, 8))
    assert windows == 3 and [info.step for info in seen] == list(range(1, 11 * windows + 1))
    assert {info.steps for info in seen} == {11 * windows}


def test_the_overlap_is_what_the_window_before_made(tiny_pipeline, pair):
    """At strength 1 a longer video begins, bit for bit, with the shorter one of its first windows."""
    settings = {"recipe": "one_stage", "steps": 2, **SIZE}
    states = {}

    class Watch(Progress):
        def save(self, stage, windows, result):
            states[windows] = tuple(result[name].clone() for name in ("video", "audio"))

    plan = tiny_pipeline.plan(Settings(frames=81, windows=SHORT, **settings))
    with torch.no_grad():
        Runner(tiny_pipeline, plan.decision, Job(pair, plan.decision.seed, progress=Watch())).run()
    for number, window in enumerate(plan_windows(81, 24.0, 33, 8)[1:], 2):
        done = window.video[0] + window.held[0], window.audio[0] + window.held[1]
        before, after = states[number - 1], states[number]
        assert torch.equal(before[0][:, :done[0]], after[0][:, :done[0]])
        assert torch.equal(before[1][:, :done[1]], after[1][:, :done[1]])
        assert not before[0][:, done[0]:].any(), "nothing was written beyond the window"


def test_a_soft_overlap_changes_it_smoothly(tiny_pipeline, pair):
    settings = {"recipe": "one_stage", "steps": 2, "frames": 57, **SIZE}
    hard = tiny_pipeline.sample(pair, windows=Windows(33, 16), **settings)
    soft = tiny_pipeline.sample(pair, windows=Windows(33, 16, strength=0.5), **settings)
    assert torch.equal(hard.video[:, :, :3], soft.video[:, :, :3]), "before the overlap"
    assert not torch.allclose(hard.video[:, :, 3:5], soft.video[:, :, 3:5], atol=1e-3)


def test_seams_are_no_larger_than_those_of_a_single_pass(tiny_pipeline, pair):
    """The jump at a seam beside the median jump elsewhere, in windows and in one pass; printed for the documents."""
    settings = {"recipe": "distilled_one_stage", "frames": 97, **SIZE}
    single = tiny_pipeline.sample(pair, **settings)
    long = tiny_pipeline.sample(pair, windows=Windows(41, 16), **settings)
    windows = plan_windows(97, 24.0, 41, 16)
    seams = {"video": [w.video[0] + w.held[0] - 1 for w in windows[1:]],
             "audio": [w.audio[0] + w.held[1] - 1 for w in windows[1:]]}
    for kind, at in seams.items():
        ratio = {}
        for name, latents in (("windows", long), ("single", single)):
            part = getattr(latents, kind)
            steps = (part[:, :, 1:] - part[:, :, :-1]).transpose(0, 2).flatten(1).pow(2).mean(1).sqrt()
            others = torch.tensor([i for i in range(1, len(steps)) if i not in at])
            ratio[name] = (steps[at].mean() / steps[others].median()).item()
        print(f"{kind}: jump at seams / median jump: windows {ratio['windows']:.2f}, single pass {ratio['single']:.2f}")
        assert ratio["windows"] < 1.25 * max(ratio["single"], 1.0)


def test_prompts_share_the_time(tiny_pipeline):
    a, b = tiny_pipeline.encode("a boat on a lake", "noise"), tiny_pipeline.encode("a storm", "noise")
    timeline = Windows(33, 8, prompts=(a, b)).over(Clip(64, 64, 129, 24.0))
    assert [timeline.prompt(window, None) is b for window in timeline.windows] == [False, False, True, True]
    settings = {"recipe": "one_stage", "steps": 1, "frames": 81, **SIZE}
    one = tiny_pipeline.sample(a, windows=SHORT, **settings)
    two = tiny_pipeline.sample(a, windows=Windows(33, 8, prompts=(a, b)), **settings)
    assert torch.equal(one.video[:, :, :5], two.video[:, :, :5])
    assert not torch.allclose(one.video[:, :, -3:], two.video[:, :, -3:], atol=1e-3)


@pytest.mark.parametrize(("text", "prompts"), [
    ("a\n---\nb", ["a", "b"]), ("a\r\n---\r\nb\r\n", ["a", "b"]), ("a\n \t----- \n\n---\nb\nc", ["a", "b\nc"]),
    ("a --- b\n--\nc", ["a --- b\n--\nc"]), ("---", []), ("", [])])
def test_prompts_are_divided_by_lines_of_dashes(text, prompts):
    """Whatever ends a line: a text that was written on Windows is divided as well."""
    assert prompts_of(text) == prompts


def test_conditions_act_where_they_are(tiny_pipeline, pair):
    settings = {"recipe": "one_stage", "steps": 1, "frames": 81, "windows": SHORT, **SIZE}
    image = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    first = tiny_pipeline.sample(pair, conditions=[ImageCondition(image, crf=0)], **settings)
    want = tiny_pipeline.encode_video(ImageCondition(image, crf=0).pixels(64, 64))
    assert torch.allclose(first.video[:, :, :1], want, atol=1e-5)
    last = tiny_pipeline.sample(pair, conditions=[ImageCondition(image, frame=-1)], **settings)
    assert last.video.shape == first.video.shape


def test_appended_tokens_go_to_the_windows_of_their_time():
    grid = VideoGrid(11, 2, 2)
    keyframes = [video_positions(VideoGrid(1, 2, 2), 24.0, start_frame=frame) for frame in (20, 30, 80)]
    positions = torch.cat([video_positions(grid, 24.0), *keyframes], dim=2)
    found = [window.video_tokens(grid, positions) for window in plan_windows(81, 24.0, 33, 8)]
    assert [i[i >= grid.tokens].tolist() for i in found] == [
        [44, 45, 46, 47, 48, 49, 50, 51], [48, 49, 50, 51], [52, 53, 54, 55]]
    assert found[1][:20].tolist() == list(range(16, 36))


@pytest.mark.parametrize(("recipe", "stop_at"), [("distilled", 3), ("distilled", 20), ("distilled", 30), ("hq", 12)])
def test_an_interrupted_run_goes_on(tiny_pipeline, pair, tmp_path, recipe, stop_at):
    settings = {"recipe": recipe, "frames": 81, **SIZE, **({"steps": 3} if recipe == "hq" else {})}
    whole = tiny_pipeline.sample(pair, windows=SHORT, **settings)
    kept, seen = Windows(33, 8, resume=tmp_path / "kept"), []

    def stop(info):
        seen.append(info.step)
        if info.step == stop_at and len(seen) == stop_at:
            raise KeyboardInterrupt

    per_window = (8 if recipe == "distilled" else 3, 3)  # steps of the two stages
    total = 3 * sum(per_window)
    with pytest.raises(KeyboardInterrupt):
        tiny_pipeline.sample(pair, windows=kept, on_step=stop, **settings)
    seen.clear()
    again = tiny_pipeline.sample(pair, windows=kept, on_step=lambda info: seen.append(info.step), **settings)
    assert torch.equal(again.video, whole.video) and torch.equal(again.audio, whole.audio)
    assert seen[-1] == total
    done = stop_at - 1
    first = min(done // per_window[0], 3)
    finished = first * per_window[0] + max(done - 3 * per_window[0], 0) // per_window[1] * per_window[1]
    assert len(seen) == total - finished, "only what was not finished runs again"
    assert not list((tmp_path / "kept").iterdir()), "nothing is left after a run that ended well"


def test_other_settings_do_not_go_on_there(tiny_pipeline, pair, tmp_path):
    def stop(info):
        if info.step == 4:
            raise KeyboardInterrupt

    kept = Windows(33, 8, resume=tmp_path)
    settings = {"recipe": "one_stage", "steps": 2, "frames": 57, **SIZE}
    with pytest.raises(KeyboardInterrupt):
        tiny_pipeline.sample(pair, windows=kept, on_step=stop, **settings)
    [file] = tmp_path.iterdir()
    seen = []
    tiny_pipeline.sample(pair, windows=kept, on_step=seen.append, **{**settings, "seed": 4})
    assert len(seen) == 4 and list(tmp_path.iterdir()) == [file], "another seed begins anew, and leaves the other run"
    file.write_bytes(file.read_bytes()[:100])
    seen.clear()
    tiny_pipeline.sample(pair, windows=kept, on_step=seen.append, **settings)
    assert len(seen) == 4, "a damaged file begins anew"


def test_a_folder_that_cannot_be_written_costs_only_the_resuming(tiny_pipeline, pair, tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with caplog.at_level(logging.WARNING, logger="ltx23"):
        latents = tiny_pipeline.sample(pair, recipe="one_stage", steps=1, frames=57,
                                       windows=Windows(33, 8, resume=file / "x"), **SIZE)
    assert latents.video.shape[2] == 8 and "cannot be kept" in caplog.text


def test_fingerprint_is_of_the_content():
    a, b = torch.arange(4.0), torch.arange(4.0)
    assert fingerprint(a, 1, "x") == fingerprint(b, 1, "x") != fingerprint(b + 1, 1, "x")
    assert fingerprint(ImageCondition(torch.zeros(2, 2, 3))) != fingerprint(ImageCondition(torch.ones(2, 2, 3)))
    assert fingerprint((1, 2), 3) != fingerprint((1, 2, 3))
    with pytest.raises(TypeError, match="no fingerprint"):
        fingerprint(object())


@pytest.mark.parametrize(("windows", "words"), [
    (Windows(34, 8), "Use 33 or 41"), (Windows(33, 40), "overlap is 40"), (Windows(33, 9), "multiple of 8")])
def test_windows_that_cannot_be(tiny_pipeline, pair, windows, words):
    with pytest.raises(RequestError, match=words):
        tiny_pipeline.sample(pair, frames=81, windows=windows, **SIZE)
    with pytest.raises(RequestError, match="from 0 to 1"):
        Windows(strength=1.5)


@pytest.mark.parametrize("streams", ["audio", "video"])
def test_single_streams_are_long_too(tiny_pipeline, pair, streams):
    latents = tiny_pipeline.sample(pair, recipe="one_stage", steps=1, frames=81, windows=SHORT, streams=streams, **SIZE)
    assert (latents.video is None) == (streams == "audio") and (latents.audio is None) == (streams == "video")
