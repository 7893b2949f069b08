"""Workers give what one process gives, prompt after prompt, with steps, previews, words and interrupts."""
from __future__ import annotations

import time

import pytest
import torch

from ltx23_core import ImageCondition, Lora
from ltx23_core.decode.tiles import auto_tiling
from ltx23_core.errors import RequestError
from ltx23_core.plan.settings import Settings
from tests.unit.conftest import TINY

SMALL = {"width": 96, "height": 64, "frames": 9, "steps": 2}
ROUNDING = 2e-5


class Stop(Exception):
    """What a host raises where its user cancels."""


def close(got, want):
    return (got - want).abs().max() <= ROUNDING * want.abs().max()


@pytest.fixture(scope="module")
def pairs(tiny_pipeline, two_workers):
    return tiny_pipeline.encode("a boat on a lake", "noise"), two_workers.encode("a boat on a lake", "noise")


def test_contexts_are_those_of_one_process(pairs):
    one, other = pairs
    assert torch.equal(one.positive.video, other.positive.video)
    assert torch.equal(one.negative.audio, other.negative.audio)


def test_a_guided_run_with_an_image_steps_and_previews(tiny_pipeline, two_workers, pairs):
    options = dict(SMALL, seed=4, conditions=(ImageCondition(torch.rand(70, 50, 3), crf=0),))
    want = tiny_pipeline.sample(pairs[0], **options)
    steps = []
    got = two_workers.sample(pairs[1], on_step=steps.append, preview=True, **options)
    assert close(got.video, want.video) and close(got.audio, want.audio)
    assert [info.step for info in steps] == [1, 2] and steps[-1].steps == 2
    assert steps[-1].preview is not None and steps[-1].preview.dtype == torch.uint8
    assert got.drawn == want.drawn and got.seed == 4


def test_the_next_prompt_starts_nothing_anew(two_workers, pairs):
    two_workers.sample(pairs[1], **SMALL)
    before = two_workers.ranks.pids
    again = [two_workers.sample(pairs[1], seed=9, **SMALL) for _ in range(2)]
    assert two_workers.ranks.pids == before and torch.equal(again[0].video, again[1].video)


def test_two_stages_and_a_lora(tiny_pipeline, two_workers, pairs):
    lora = Lora(TINY / "ltx-2.3-tiny-distilled-lora.safetensors", 0.5)
    options = {"recipe": "two_stage", "width": 128, "height": 64, "frames": 9, "steps": 2, "seed": 3}
    want = tiny_pipeline.with_loras([lora]).sample(pairs[0], **options)
    got = two_workers.with_loras([lora]).sample(pairs[1], **options)
    assert close(got.video, want.video) and close(got.audio, want.audio)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_frames_and_sound_are_those_of_one_process(tiny_pipeline, two_workers, eight_bit):
    latent = torch.randn(1, 8, 13, 2, 3, generator=torch.Generator().manual_seed(1))
    official = auto_tiling(latent.shape)  # which several devices take; one of them needs no tiles where there is room
    want = torch.cat(list(tiny_pipeline.decode_video(latent, official, eight_bit)))
    got = torch.cat(list(two_workers.decode_video(latent, eight_bit=eight_bit)))
    assert torch.equal(got, want)
    sound = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(two_workers.decode_audio(sound).waveform, tiny_pipeline.decode_audio(sound).waveform)


def test_what_the_first_rank_does_alone(tiny_pipeline, two_workers):
    pixels = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = tiny_pipeline.encode_video(pixels)
    assert torch.equal(two_workers.encode_video(pixels), latent)
    assert torch.equal(two_workers.upscale(latent, "x2"), tiny_pipeline.upscale(latent, "x2"))
    tokens = []
    text = two_workers.enhance("a boat", max_new_tokens=4, on_token=lambda: tokens.append(1))
    assert text == tiny_pipeline.enhance("a boat", max_new_tokens=4) and tokens


def test_an_interrupt_ends_the_run_and_workers_stay(two_workers, pairs):
    two_workers.sample(pairs[1], seed=1, **SMALL)
    before, want = two_workers.ranks.pids, two_workers.sample(pairs[1], seed=1, **SMALL)

    def stop(info):
        if info.step == 3:
            raise Stop

    begin = time.monotonic()
    with pytest.raises(Stop):
        two_workers.sample(pairs[1], on_step=stop, **dict(SMALL, steps=2000))
    assert time.monotonic() - begin < 200
    got = two_workers.sample(pairs[1], seed=1, **SMALL)
    assert two_workers.ranks.pids == before and torch.equal(got.video, want.video)


def test_a_decoding_that_is_let_go_ends(two_workers, pairs):
    latent = torch.randn(1, 8, 60, 2, 3, generator=torch.Generator().manual_seed(1))
    two_workers.sample(pairs[1], **SMALL)
    before = two_workers.ranks.pids
    frames = two_workers.decode_video(latent)
    next(frames)
    with pytest.raises(RequestError, match="still being decoded"):
        two_workers.sample(pairs[1], **SMALL)
    frames.close()
    assert two_workers.sample(pairs[1], **SMALL).video is not None and two_workers.ranks.pids == before


def test_what_a_rank_refuses_is_said_in_its_words(two_workers, pairs):
    with pytest.raises(RequestError, match="holds NaN"):
        list(two_workers.decode_video(torch.full((1, 8, 2, 2, 3), float("nan"))))
    before = two_workers.ranks.pids
    assert two_workers.sample(pairs[1], **SMALL).video is not None and two_workers.ranks.pids == before


def test_the_plan_and_how_far_it_is_are_told(tiny_overlay, pairs):
    from ltx23_core.workers.pipeline import WorkersPipeline
    said, counted = [], []
    pipe = WorkersPipeline(tiny_overlay, devices="2", device="cpu", dtype="fp32", tell=said.append,
                           count=lambda *counts: counted.append(counts))
    try:
        plan = pipe.plan(Settings(**SMALL))
        assert "passes a step" in str(plan)
        latents = plan.run(pairs[0])
        loaded = {total for _, total in counted}
        assert len(pipe.component("transformer").refs) in loaded, "the first rank's load"
        counted.clear()
        list(pipe.decode_video(latents.video))
        assert counted, "while parts travel"
    finally:
        pipe.close()
    assert all(0 < done <= total for done, total in counted)
    assert len(said) == 1 and said[0].startswith("2 devices, rank") and "s a forward" in said[0], said


def test_counts_are_of_what_is_innermost() -> None:
    from ltx23_core.workers import counting
    told = []
    residency = counting.CountingResidency(torch.device("cpu"), memory="auto", check=lambda: None,
                                           tell=lambda *counts: told.append(counts))
    residency.check()
    with residency.counting(3):
        residency.check()
        with residency.counting(0):
            residency.check()
        residency.check()  # told of a moment ago
        residency._counts[-1]._told -= counting.SECONDS_BETWEEN
        for _ in range(3):
            residency.check()
    residency.check()
    assert told == [(1, 3), (1, 1), (3, 3)]
