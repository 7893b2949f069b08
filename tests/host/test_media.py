"""Clips as users have them, through ComfyUI's own VIDEO and our nodes: rates, layouts, depths, turned, cut off.

See media_in_process.py, which makes them with PyAV.
"""
from __future__ import annotations

import json
import math
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tools.host import clean_environment
from tools.install import FRONT_END, Place

Found = dict[str, dict[str, Any]]
COUNT = 25


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    comfy = Place(ROOT).comfy(FRONT_END)
    if not (comfy.source / "main.py").exists():
        pytest.skip(f"No ComfyUI in {comfy.source}: `python3 run.py test` installs it.")
    command = [str(comfy.python), str(Path(__file__).with_name("media_in_process.py")), str(comfy.source), str(ROOT),
               str(tmp_path_factory.mktemp("clips"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=clean_environment(),
                          cwd=comfy.source, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_clip_was_made_and_none_ended_in_python(found: Found) -> None:
    assert len(found) > 45
    for name, clip in found.items():
        assert "not made" not in clip, (name, clip)
        assert clip.get("error") in (None, "MediaError", "RequestError"), (name, clip)
        if "frames" in clip:
            assert clip["finite"] and clip["frames"] == (1 if name == "one frame" else COUNT), name


@pytest.mark.parametrize("rate", ["12.5", "15", "24000/1001", "25", "30000/1001", "50", "60000/1001", "120000/1001",
                                  "1/2", "1", "240"])
def test_rates_keep_the_time(found: Found, rate: str) -> None:
    clip, exact = found[f"rate {rate}"], Fraction(rate)
    assert clip["fps"] == pytest.approx(float(exact), rel=1e-9)
    if rate == "24000/1001":
        assert clip["picks"] == COUNT, "23.976 and 24 are a frame apart only after 42 s"
    assert clip["picks"] == max(1, math.ceil(COUNT * 24 / exact - Fraction(1, 2)))


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "4.0", "5.0", "5.1"])
@pytest.mark.parametrize("codec", ["flac", "pcm", "aac"])
def test_sound_has_the_length_of_its_picture_in_every_layout(found: Found, codec: str, layout: str) -> None:
    """FLAC and PCM give channels in turn, which the host hands out as one long channel; AAC gives rows."""
    clip = found[f"{codec} {layout}"]
    assert clip["seconds"] == pytest.approx(COUNT / 24, abs=0.05)
    assert clip["channels"] == (1 if layout == "mono" else 2), "more than two are mixed down"
    left, right = (clip["peaks"] * 2)[:2]
    if codec != "aac" and layout == "stereo":
        assert (left, right) == pytest.approx((0.25, 0.125), abs=0.01), "channels are not exchanged"
    if layout not in ("mono", "stereo"):
        assert left > right > 0


@pytest.mark.parametrize("name", ["hertz 8000", "hertz 11025", "hertz 22050", "hertz 44100", "hertz 96000",
                                  "hertz 192000", "pcm 24 bit", "pcm float"])
def test_sound_of_any_rate_and_depth(found: Found, name: str) -> None:
    clip = found[name]
    assert clip["seconds"] == pytest.approx(COUNT / 24, abs=0.05) and clip["channels"] == 2
    assert clip["peaks"] == pytest.approx([0.25, 0.125], abs=0.01)


@pytest.mark.parametrize(("name", "size", "white"), [
    ("turned", [64, 48, 3], "top"), ("turned 180", [48, 64, 3], "right"), ("turned 270", [64, 48, 3], "bottom"),
    ("turned square", [64, 64, 3], "top"), ("variable", [48, 64, 3], "left")])
def test_a_turned_clip_stands_upright(found: Found, name: str, size: list[int], white: str) -> None:
    """As every player shows it: a quarter clockwise brings the left half up."""
    assert found[name]["size"] == size and found[name]["white"] == white


@pytest.mark.parametrize(("name", "size"), [
    ("ten bit", [48, 64, 3]), ("sixteen bit", [48, 64, 3]), ("grey", [48, 64, 3]), ("alpha", [48, 64, 3]),
    ("full chroma", [48, 64, 3]), ("one frame", [48, 64, 3]), ("silent", [48, 64, 3]), ("odd size", [49, 63, 3]),
    ("wide", [16, 2048, 3]), ("gif", [48, 64, 3])])
def test_pictures_of_any_depth_and_size(found: Found, name: str, size: list[int]) -> None:
    assert found[name]["size"] == size and found[name]["white"] == "left"


def test_the_smallest_picture(found: Found) -> None:
    """2x2 pixels: newer hosts (0.33) widen every frame by a filter that takes no picture so narrow."""
    shown = found["tiny"]
    assert shown.get("size") == [2, 2, 3] or "cannot be read (ArgumentError)" in shown["text"], shown


@pytest.mark.parametrize(("name", "words"), [
    ("sound alone", "it has no picture"), ("cut off", "cannot be read (InvalidDataError)")])
def test_what_is_no_clip_is_refused_in_words(found: Found, name: str, words: str) -> None:
    assert words in found[name]["text"] and "Next: " in found[name]["text"]


LEFT = [1.0, 0.0] * 4  # of 2 latent frames of 2 x 2 cells


@pytest.mark.parametrize(("name", "cells"), [
    ("empty", [0.0] * 8), ("full", [1.0] * 8), ("half", LEFT), ("plain", LEFT), ("each", LEFT), ("dot", [1.0] * 8),
    ("tall", [1.0] * 8), ("huge", LEFT), ("bits", LEFT), ("bytes", LEFT), ("half precision", LEFT), ("double", LEFT),
    ("slightly over", LEFT), ("soft", [0.489, 0.497, 0.99, 0.997] * 2)])
def test_masks_of_any_size_and_kind_of_number(found: Found, name: str, cells: list[float]) -> None:
    assert found[f"mask {name}"]["cells"] == cells


@pytest.mark.parametrize(("name", "words"), [
    ("three", "one for each frame of the clip, or (1, height, width) for all"), ("none", "at least one"),
    ("flat", "at least one"), ("nan", "holds NaN or infinity"), ("255", "values from 0 to 255"),
    ("negative", "values from -1 to 0"), ("images", "masks (count, height, width)")])
def test_what_is_no_mask_for_the_clip_is_refused_in_words(found: Found, name: str, words: str) -> None:
    assert words in found[f"mask {name}"]["text"] and "Next: " in found[f"mask {name}"]["text"]
