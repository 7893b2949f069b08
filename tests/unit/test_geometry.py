"""Sizes: latent grids, audio lengths, what is refused and which valid values are named."""
from __future__ import annotations

import pytest

from ltx23_core.errors import GeometryError
from ltx23_core.geometry import (
    audio_latent_length,
    audio_positions,
    check_size,
    size_problem,
    video_grid,
    video_positions,
)


@pytest.mark.parametrize(("width", "height", "frames", "tokens"), [
    (768, 512, 121, 6144), (1280, 704, 121, 14080), (1920, 1088, 121, 32640), (960, 544, 121, 8160)])
def test_token_counts_of_the_spec(width, height, frames, tokens):
    assert video_grid(width, height, frames).tokens == tokens


def test_audio_length_rounds_half_to_even():
    assert audio_latent_length(121, 24.0) == 126
    assert audio_latent_length(1, 10.0) == 2  # 2.5 rounds to 2


@pytest.mark.parametrize(("width", "height", "frames", "fps", "step", "names"), [
    (770, 512, 121, 24.0, 32, ("width is 770", "768 or 800")),
    (768, 500, 121, 24.0, 32, ("height is 500", "480 or 512")),
    (16, 512, 121, 24.0, 32, ("width is 16", "32 or 64")),
    (736, 512, 121, 24.0, 64, ("width is 736", "704 or 768")),
    (768, 512, 120, 24.0, 32, ("frames is 120", "113 or 121")),
    (768, 512, 0, 24.0, 32, ("frames is 0", "1 or 9")),
    (768, 512, 121, 0.0, 32, ("fps is 0", "24")),
    (768, 512, 121, float("nan"), 32, ("fps is nan", "24")),
    (768, 512, 1, 120.0, 32, ("1 frames at 120", "more frames"))])
def test_refusals_name_the_nearest_valid_values(width, height, frames, fps, step, names):
    with pytest.raises(GeometryError) as error:
        check_size(width, height, frames, fps, step)
    assert all(part in str(error.value) for part in names), error.value


def test_unknown_values_are_not_checked():
    assert size_problem(None, None, None, None) is None
    assert size_problem(768, 512, 121, 23.976) is None


def test_positions_of_the_spec():
    times = video_positions(video_grid(32, 32, 17), 24.0)[0, 0].mean(-1)
    assert times.tolist() == pytest.approx([0.5 / 24, 5 / 24, 13 / 24], abs=1e-6)
    assert audio_positions(2)[0, 0].mean(-1).tolist() == pytest.approx([0.005, 0.03], abs=1e-7)
    keyframe = video_positions(video_grid(32, 32, 1), 24.0, start_frame=16)[0, 0, 0]
    assert keyframe.tolist() == pytest.approx([16 / 24, 17 / 24])
