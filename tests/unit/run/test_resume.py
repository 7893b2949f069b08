"""What a long run keeps: finished samples of a batch, what is told, what is removed, hashing that can be stopped."""
from __future__ import annotations

import hashlib
import os
import time
from fractions import Fraction

import pytest
import torch

from ltx23_core import Windows
from ltx23_core.plan.latents import PromptText
from ltx23_core.plan.settings import Settings
from ltx23_core.run.fingerprint import PIECE, fingerprint
from ltx23_core.run.resume import KEPT_SECONDS, sweep

SETTINGS = {"recipe": "one_stage", "steps": 2, "frames": 57, "width": 64, "height": 64, "seed": 3}


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


def test_a_finished_sample_of_a_batch_is_not_made_again(tiny_pipeline, pair, tmp_path):
    """Two samples of two windows of two steps: stopped in the sixth step, the second run takes four over."""
    whole = tiny_pipeline.plan(Settings(batch=2, windows=Windows(33, 8), **SETTINGS)).run(pair)
    plan = tiny_pipeline.plan(Settings(batch=2, windows=Windows(33, 8, resume=tmp_path), **SETTINGS))

    def stop(info):
        if info.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(pair, stop)
    assert len(list(tmp_path.glob("*-done.safetensors"))) == 1
    seen, told = [], []
    again = plan.run(pair, seen.append, say=told.append)
    assert [(info.step, info.steps) for info in seen] == [(5, 8), (6, 8), (7, 8), (8, 8)]
    line, *told = told
    assert "peak" in line and told == ["A sample is taken over from an earlier run."]
    assert torch.equal(again.video, whole.video) and torch.equal(again.audio, whole.audio)
    assert (again.seed, again.drawn, again.fps) == (whole.seed, whole.drawn, whole.fps)
    assert not list(tmp_path.iterdir())


def test_what_is_resumed_is_told(tiny_pipeline, pair, tmp_path):
    plan = tiny_pipeline.plan(Settings(windows=Windows(33, 8, resume=tmp_path), **SETTINGS))

    def stop(info):
        if info.step == 3:
            raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        plan.run(pair, stop, say=told.append)
    [line] = told
    assert "peak" in line
    plan.run(pair, say=told.append)
    assert told == [line, line, "Stage 1 goes on after 1 windows of an earlier run."]


def test_abandoned_files_go_by_age_and_no_others(tiny_pipeline, pair, tmp_path):
    old, young, foreign = (tmp_path / name for name in (
        "ltx23-0123-stage1.safetensors", "ltx23-4567-stage1.safetensors", "notes.txt"))
    leftover = tmp_path / ".0123-abc.tmp"
    for file in (old, young, foreign, leftover):
        file.write_bytes(b"x")
    past = time.time() - KEPT_SECONDS - 60
    for file in (old, foreign, leftover):
        os.utime(file, (past, past))
    tiny_pipeline.plan(Settings(windows=Windows(33, 8, resume=tmp_path), **SETTINGS)).run(pair)
    assert sorted(tmp_path.iterdir()) == sorted([young, foreign])
    sweep(tmp_path / "not there")
    sweep(None)


def test_prompts_as_text_are_encoded_when_the_run_begins(tiny_pipeline, pair):
    texts = PromptText("a boat", "noise"), PromptText("a storm", "noise")
    pairs = tuple(tiny_pipeline.encode(text.prompt, text.negative_prompt) for text in texts)
    made = [tiny_pipeline.plan(Settings(windows=Windows(33, 8, prompts=prompts), **SETTINGS)).run(pair)
            for prompts in (texts, pairs)]
    assert torch.equal(made[0].video, made[1].video)


class _Stop(Exception):
    pass


def test_hashing_is_streamed_and_can_be_stopped():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise _Stop

    large = torch.zeros(4 * PIECE, dtype=torch.uint8)
    with pytest.raises(_Stop):
        fingerprint(large, check=check)
    calls.clear()
    fingerprint({"a": large, "b": [large]}, check=lambda: calls.append(1))
    assert len(calls) == 4, "each tensor once"


def test_fingerprints_go_by_content_whatever_the_layout():
    values = torch.arange(24.0).view(2, 3, 4)
    assert fingerprint(values.transpose(0, 2)) == fingerprint(values.transpose(0, 2).contiguous())
    assert fingerprint(values) != fingerprint(values.view(3, 2, 4)) != fingerprint(values.double())
    assert fingerprint(Fraction(24000, 1001)) != fingerprint(Fraction(24, 1)) != fingerprint(24)
    assert fingerprint(torch.tensor(1.0)) != fingerprint(torch.tensor(2.0))
    assert len(fingerprint()) == len(hashlib.sha256().hexdigest())
