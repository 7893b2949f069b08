"""What training gives away, case by case, and a step that mixes all of them."""
import pytest
import torch

from tools.tiny_world.train import given
from tools.tiny_world.train.configs import SIZES
from tools.tiny_world.train.given import CASES, given_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_each_case_gives_what_its_name_says(size, case, monkeypatch):
    monkeypatch.setattr(given, "_borders", lambda device: torch.tensor(
        [0.0 if list(CASES).index(case) > number else 1.1 for number in range(len(CASES) - 1)]))
    torch.manual_seed(0)
    made = given_of(size, 64, CPU)
    cells = size.width * size.height // 1024
    video = made.video.unflatten(1, (-1, cells))
    assert video.shape[1] == size.frames // 8 + 1
    frames = video.amax(2)
    if case in ("image", "beginning"):
        assert (video[:, 0] == 0).all() and (frames[:, -1] == 1).all()
        assert (frames.diff(dim=1) >= 0).all(), "what is known stands at the beginning"
    if case == "image":
        assert (video[:, 1:] == 1).all() and (made.audio == 1).all()
    if case == "beginning":
        assert (made.audio.diff(dim=1) >= 0).all() and (made.audio[:, -1] == 1).all()
    if case == "sound":
        assert (made.audio == 0).all() and (made.video == 1).all()
    if case == "picture":
        assert (made.video == 0).all() and (made.audio == 1).all()
    if case == "frames":
        assert (frames.amax(1) == 1).all(), "something is left to generate"
        assert torch.equal(frames, video.amin(2)), "frames are given whole"
    if case == "cells":
        assert (video == video[:, :1]).all() and 0.2 < float(video.mean()) < 0.8


def test_the_cases_are_drawn_as_often_as_they_say():
    torch.manual_seed(0)
    made = given_of(SIZES[0], 4000, CPU)
    whole = (made.video == 0).all(1).float().mean()
    assert abs(float(whole) - CASES["picture"]) < 0.03
    assert abs(float((made.audio == 0).all(1).float().mean()) - CASES["sound"]) < 0.04
