"""Frame rates as fractions, sample rates and layouts of sound: everything that comes in reaches the file unchanged."""
from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ltx23_core.conditioning.source import SourceClip
from ltx23_core.errors import MediaError
from ltx23_core.media import Audio, frame_rate, write_video
from ltx23_core.media.audio import as_float, as_stereo
from ltx23_core.media.rate import nearest_frames

HALF = math.sqrt(0.5)
CLIP = [torch.zeros(24, 32, 32, 3)]


@pytest.mark.parametrize("top", [12, 15, 24, 30, 48, 60, 72, 90, 96, 120, 144, 240])
@pytest.mark.parametrize("digits", [2, 3, 6])
def test_every_ntsc_rate_is_known_by_its_digits(top: int, digits: int) -> None:
    exact = Fraction(top * 1000, 1001)
    assert frame_rate(round(float(exact), digits)) == frame_rate(float(exact)) == frame_rate(exact) == exact
    assert frame_rate(top) == top, "the whole rate beside it stays itself"


@pytest.mark.parametrize("frames", [1, 8, 9, 32, 33, 121, 1001])
@pytest.mark.parametrize(("source", "typed"), [
    (24000 / 1001, 23.976), (23.976, 24000 / 1001), (23.98, 23.976), (30000 / 1001, 29.97), (59.94, 60000 / 1001),
    (119.88, 120000 / 1001), (24, 24.0), (12.5, 12.5), (0.5, 0.5), (1000, 1000.0), (24, 23.976), (23.976, 24)])
def test_equal_and_nearly_equal_rates_map_every_frame(frames: int, source: float, typed: float) -> None:
    picks = SourceClip(torch.zeros(frames, 2, 2, 3), None, source).picks(typed)
    if abs(source - typed) < 0.01 or frames < 500:
        assert picks == tuple(range(frames))
    else:  # 24 and 23.976 are a frame apart after 42 s
        assert len(picks) == frames + (1 if source < typed else -1)


@pytest.mark.parametrize(("frames", "source", "fps", "want"), [
    (8, 48, 24, (0, 2, 4, 6)), (3, 10, 30, (0, 0, 1, 1, 1, 2, 2, 2, 2)), (1, 1000, 1, (0,)), (0, 24, 30, ()),
    (11, 30, 24, (0, 1, 2, 4, 5, 6, 7, 9, 10))])
def test_other_rates_take_the_nearest_frame(frames: int, source: float, fps: float, want: tuple[int, ...]) -> None:
    assert nearest_frames(frames, source, fps) == want


def read(path: Path) -> tuple[np.ndarray, int]:
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        return np.concatenate([f.to_ndarray() for f in file.decode(stream)], axis=1), stream.rate


@pytest.mark.parametrize("rate", [1, 100, 5512, 7350, 8000, 11025, 12000, 16000, 22050, 22255, 24000, 32000, 37800,
                                  40000, 44056, 44100, 47999, 48000, 50000, 64000, 88200, 96000, 192000, 384000])
def test_a_sound_of_any_rate_reaches_the_file(tmp_path: Path, rate: int) -> None:
    samples = max(rate, 2)
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(samples) / rate) if rate > 4000 else torch.zeros(samples)
    write_video(tmp_path / "a.mp4", CLIP, 24, Audio(tone.expand(1, 2, -1), rate))
    found, kept = read(tmp_path / "a.mp4")
    known = set(av.Codec("aac", "w").audio_rates)
    assert kept == (rate if rate in known else 48000)
    seconds = samples / rate
    assert 0 <= found.shape[1] / kept - seconds < 2 * 1024 / kept + 1e-9, "whole AAC frames of 1024 at the end only"
    if rate > 4000:
        middle = found[0, kept // 4:kept // 4 + kept // 2]
        peak = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * kept / len(middle)
        assert abs(peak - 440) < 4 and 0.4 < np.abs(middle).max() < 0.6


def test_stereo_samples_are_untouched() -> None:
    stereo = torch.randn(1, 2, 50)
    assert as_stereo(stereo).data_ptr() == stereo.data_ptr() and torch.equal(as_stereo(stereo), stereo)
    assert torch.equal(as_stereo(stereo[:, :1]), stereo[:, :1].expand(-1, 2, -1))


@pytest.mark.parametrize(("channels", "gains"), [
    (3, [(1, 0), (0, 1), (HALF, HALF)]),
    (4, [(1, 0), (0, 1), (HALF, HALF), (0.5, 0.5)]),
    (5, [(1, 0), (0, 1), (HALF, HALF), (HALF, 0), (0, HALF)]),
    (6, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF)]),
    (7, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (0.5, 0.5), (HALF, 0), (0, HALF)]),
    (8, [(1, 0), (0, 1), (HALF, HALF), (0, 0), (HALF, 0), (0, HALF), (HALF, 0), (0, HALF)]),
    (12, [(1, 0), (0, 1), (HALF, HALF), (0, 0), *[(HALF, 0), (0, HALF)] * 4])])
def test_every_channel_is_heard_as_bs775_says(channels: int, gains: list[tuple[float, float]]) -> None:
    for channel, gain in enumerate(gains):
        sound = torch.zeros(1, channels, 10)
        sound[0, channel] = 0.5
        assert torch.allclose(as_stereo(sound)[0], 0.5 * torch.tensor(gain)[:, None].expand(2, 10)), channel


def test_a_mix_that_would_clip_is_made_quieter_as_a_whole() -> None:
    loud = torch.ones(1, 6, 8)
    loud[..., 4:] = 0.25
    mixed = as_stereo(loud)
    assert mixed.abs().max() == 1 and torch.allclose(mixed[..., 4:], mixed[..., :4] / 4)


@pytest.mark.parametrize("shape", [(6, 9), (9,), (1, 0, 9), (1, 65, 9), (1, 1, 2, 9)])
def test_layouts_that_are_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="waveform has shape"):
        as_stereo(torch.zeros(shape))


@pytest.mark.parametrize(("values", "want"), [
    (torch.tensor([-32768, 0, 16384], dtype=torch.int16), (-1, 0, 0.5)),
    (torch.tensor([-2**31, 0, 2**30], dtype=torch.int32), (-1, 0, 0.5)),
    (torch.tensor([0, 128, 192], dtype=torch.uint8), (-1, 0, 0.5)),
    (torch.tensor([-1, 0, 0.5], dtype=torch.float64), (-1, 0, 0.5)),
    (torch.tensor([-1, 0, 0.5], dtype=torch.float16), (-1, 0, 0.5))])
def test_integer_samples_are_scaled(values: torch.Tensor, want: tuple[float, ...]) -> None:
    assert as_float(values).tolist() == list(want) and as_float(values).dtype == torch.float32
