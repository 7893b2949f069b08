"""The world is seeded, its language is understood, and the evaluator reads rendered truth back within 1 %."""
import numpy as np
import pytest
import torch

from tools.tiny_world.captions import caption, describe, understand, unknown_words
from tools.tiny_world.evaluate import judge, summary
from tools.tiny_world.prompts import held_out_prompts, held_out_scenes
from tools.tiny_world.render import render
from tools.tiny_world.scene import BOUNCES, MOTIONS, contacts, is_held_out, sample_scenes, track
from tools.tiny_world.sound import note, render_sound

FPS, RATE = 24.0, 48000
LARGEST_ERROR = 0.01


def scenes_of(seed, count, aspect=1.5, frames=25, held_out=False):
    return sample_scenes(np.random.default_rng(seed), count, aspect, frames / FPS, held_out)


def verdicts_of(scenes, width, height, frames):
    clips = render(scenes, frames, FPS, width, height)
    waves = render_sound(scenes, round(frames / FPS * 100), RATE)
    return [judge((clip.permute(1, 2, 3, 0).numpy() * 255).round().astype(np.uint8), FPS, wave.numpy(), RATE,
                  describe(scenes, index)) for index, (clip, wave) in enumerate(zip(clips, waves, strict=True))]


@pytest.mark.parametrize(("width", "height", "frames", "count"),
                         [(192, 128, 25, 60), (128, 64, 25, 60), (128, 128, 49, 20)])
def test_the_evaluator_reads_rendered_truth_back(width, height, frames, count):
    scores = summary(verdicts_of(scenes_of(width + frames, count, width / height, frames), width, height, frames))
    for name in ("followed", "colour", "shape", "motion", "size", "background", "bounces", "pitch"):
        assert scores[name] >= 1 - LARGEST_ERROR, (name, scores)
    assert scores["pan"] <= LARGEST_ERROR


def test_the_evaluator_sees_what_is_wrong():
    scenes = scenes_of(5, 24)
    clips, waves = render(scenes, 25, FPS, 192, 128), render_sound(scenes, 104, RATE)
    other = render_sound(scenes_of(6, 24), 104, RATE)
    right = summary(verdicts_of(scenes, 192, 128, 25))
    wrong = []
    for index in range(24):
        frames = (clips[index].permute(1, 2, 3, 0).numpy()[:, :, ::-1])  # left and right are swapped
        wrong.append(judge(frames, FPS, other[index].numpy(), RATE, describe(scenes, index)))
    found = summary(wrong)
    sideways = [verdict for index, verdict in enumerate(wrong) if "right" in MOTIONS[scenes.motion[index]]]
    assert right["followed"] == 1 and sideways and not any(verdict.motion for verdict in sideways)
    assert found["pitch"] < 0.5 and found["pan"] > 0.1
    assert waves.shape == other.shape


def test_noise_is_nothing_that_was_asked_for():
    rng = np.random.default_rng(0)
    frames = rng.random((25, 64, 96, 3)).astype(np.float32)
    verdict = judge(frames, FPS, rng.normal(0, 0.1, (2, 48000)), RATE, understand("a red ball moves to the right"))
    assert not verdict.followed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_captions_are_understood(seed):
    scenes, rng = scenes_of(seed, 400), np.random.default_rng(seed)
    for index in range(400):
        text = caption(rng, scenes, index)
        asked, full = understand(text), describe(scenes, index)
        assert (asked.shape, asked.colour, asked.motion) == (full.shape, full.colour, full.motion), text
        assert asked.size in (None, full.size) and asked.top in (None, full.top) and asked.bottom in (None, full.bottom)
        assert not unknown_words(text), text


def test_the_prompt_of_the_readme_is_understood():
    asked = understand("a red ball bounces from left to right on a blue background")
    assert (asked.colour, asked.shape, asked.motion, asked.top) == ("red", "ball", "bounce_right", "blue")
    assert unknown_words("a red dragon sings on a blue background") == ["dragon", "sings"]


def test_everything_is_seeded():
    first, second = scenes_of(3, 8), scenes_of(3, 8)
    assert torch.equal(render(first, 9, FPS, 64, 64), render(second, 9, FPS, 64, 64))
    assert torch.equal(render_sound(first, 40, 16000), render_sound(second, 40, 16000))
    assert held_out_prompts(200) == held_out_prompts(300)[:200] and len(set(held_out_prompts(200))) > 190


def test_held_out_triples_are_never_trained_on():
    seen, hidden = scenes_of(1, 4000), held_out_scenes(300)
    assert not is_held_out(seen.colour, seen.shape, seen.motion).any()
    assert is_held_out(hidden.colour, hidden.shape, hidden.motion).all()


def test_shapes_stay_in_the_frame_and_bounces_touch_the_floor():
    scenes = scenes_of(9, 500)
    places = track(scenes, np.linspace(0, 25 / FPS, 200))
    reach = np.maximum(scenes.radius, scenes.radius_end)[:, None]
    for value, end in ((places.x, scenes.aspect[:, None]), (places.y, 1.0)):
        assert (value >= reach - 1e-9).all() and (value <= end - reach + 1e-9).all()
    names = np.array(MOTIONS)[scenes.motion]
    for index in np.flatnonzero(np.isin(names, BOUNCES)):
        times = contacts(scenes, index)
        assert len(times)
        assert np.allclose(track(scenes[index:index + 1], times).y, scenes.y[index])


def test_a_frame_of_sound_depends_on_its_note_and_levels_alone():
    scenes = scenes_of(2, 40)
    still = np.flatnonzero(scenes.motion == MOTIONS.index("still"))[0]
    wave = render_sound(scenes[still:still + 1], 50, 16000).view(2, 50, 160)
    assert torch.equal(wave[:, :1].expand(-1, 50, -1), wave)
    assert (np.diff(note(np.linspace(0, 1, 100))) >= 0).all()
