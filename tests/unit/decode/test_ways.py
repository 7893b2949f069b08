"""Ways to decode a clip: the streamed one is the whole clip, tiles are near it, none takes more than it says."""
from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bench.generate_weights import manifest_22b
from ltx23_core import Overlay, Pipeline
from ltx23_core.config import VideoVAEConfig
from ltx23_core.decode import ways as ways_module
from ltx23_core.decode.tiles import AxisTiling, Tiling
from ltx23_core.decode.ways import AT_ONCE, AUTO_TILING, CUDNN, SMALLER, Way, ways
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.geometry import video_grid
from ltx23_core.models.registry import build
from ltx23_core.runtime.residency import LocalResidency
from tests.support.live_bytes import LiveBytes

CONFIG = json.loads(manifest_22b()[1]["config"])["vae"]
FULL_SIZE = VideoVAEConfig.from_dict(CONFIG)
BF16 = torch.bfloat16
STREAMED = 120.0  # dB that the streamed clip is within of the whole one in float32: rounding of kernels by shape
# The same of tiles on the tiny model, whose random weights carry every detail over the whole clip; peak to peak is 2.
TILED = {"official": 17.0, 0: 22.0, 1: 17.0, 2: 15.0, 3: 14.5, 4: 11.5}


def shape_of(width: int, height: int, frames: int) -> tuple[int, ...]:
    grid = video_grid(width, height, frames)
    return 1, FULL_SIZE.latent_channels, grid.frames, grid.height, grid.width


def psnr(got: Tensor, want: Tensor) -> float:
    error = (got.clamp(-1, 1) - want.clamp(-1, 1)).double().square().mean()
    return (10 * torch.log10(4 / error)).item()


@pytest.fixture(scope="module")
def decoder(tiny_pipeline: Pipeline) -> torch.nn.Module:
    [module] = tiny_pipeline._use("video_decoder")
    return module


def latent_of(frames: int, height: int, width: int) -> Tensor:
    return torch.randn(1, 8, frames, height, width, generator=torch.Generator().manual_seed(5))


# The whole clip, few frames at a time

@pytest.mark.parametrize("frames", [1, 2, 3, 5, 16, 17])
def test_a_streamed_clip_is_the_whole_clip(decoder: torch.nn.Module, frames: int) -> None:
    latent = latent_of(frames, 2, 3)
    with torch.no_grad():
        want = decoder(latent)
        for at_once in (1, 2, 4, 8, 16, 24, 56, 128, 160):
            pieces = list(decoder.pieces(latent, at_once))
            got = torch.cat(pieces, dim=2)
            assert got.shape == want.shape and psnr(got, want) > STREAMED, at_once
            assert max(piece.shape[2] for piece in pieces) <= at_once or frames == 1
            if at_once >= 8 * frames:
                assert torch.equal(got, want)


def test_a_batch_streams(decoder: torch.nn.Module) -> None:
    latent = torch.cat([latent_of(4, 2, 2), latent_of(4, 2, 2).flip(2)])
    with torch.no_grad():
        assert psnr(torch.cat(list(decoder.pieces(latent, 8)), 2), decoder(latent)) > STREAMED


def test_decoding_ends_within_a_step(decoder: torch.nn.Module) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        list(decoder.pieces(latent_of(9, 2, 2), 8, check))
    assert len(calls) == 40


@pytest.mark.parametrize("number", ["official", *range(len(SMALLER))])
def test_tiles_are_near_the_whole_clip(decoder: torch.nn.Module, number: int | str) -> None:
    latent = latent_of(10, 8, 10)
    tiling = Tiling(AxisTiling(80, 24), AxisTiling(192, 64), AxisTiling(256, 64))
    if number != "official":
        tiling = ways_module._smaller(SMALLER[number])
    [way] = ways(FULL_SIZE, latent.shape, tiling, torch.float32)
    with torch.no_grad():
        assert psnr(torch.cat(list(way.decoded(decoder, latent)), 2), decoder(latent)) > TILED[number]


# What it takes

CASES = [((768, 512), 121, 32), ((1920, 1088), 121, 4), ((1920, 1088), 249, 8)]


@pytest.mark.parametrize(("size", "frames", "at_once"), CASES)
def test_streaming_takes_what_it_says_whatever_the_length(size: tuple[int, int], frames: int, at_once: int) -> None:
    way = next(way for way in ways(FULL_SIZE, shape_of(*size, frames), AUTO_TILING, BF16) if way.frames == at_once)
    decoder = build("video_decoder", CONFIG).bfloat16()
    with torch.no_grad(), LiveBytes() as counted:
        latent = torch.empty(shape_of(*size, frames), device="meta", dtype=BF16)
        counted.peak = counted.now = 0
        made = 0
        for piece in way.decoded(decoder, latent):
            made += piece.shape[2]
            del piece
    assert made == frames
    assert counted.peak <= way.bytes - CUDNN <= 1.1 * counted.peak


def test_full_hd_within_4_gb_at_any_length() -> None:
    weights = sum(value.numel() * 2 for value in build("video_decoder", CONFIG).state_dict().values())
    short, long = (ways(FULL_SIZE, shape_of(1920, 1088, frames), AUTO_TILING, BF16) for frames in (121, 1001))
    [one] = [way for way in short if way.frames == 4]
    assert weights + one.bytes < 3.5e9, "with room for what an allocator loses"
    assert [way.bytes for way in short if way.frames] == [way.bytes for way in long if way.frames]


@pytest.mark.parametrize("size", [(64, 64, 9), (768, 512, 121), (1920, 1088, 121), (3840, 2176, 505)])
def test_each_way_takes_less_than_those_before(size: tuple[int, int, int]) -> None:
    found = ways(FULL_SIZE, shape_of(*size), AUTO_TILING, BF16)
    sizes = [way.bytes for way in found]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    if size[2] > 100:
        assert [way.frames for way in found][:5] == list(AT_ONCE) and found[-1].tiling is not None
        assert "32 frames at a time" in found[0].text and "tiles of" in found[-1].text


def test_a_tiling_that_is_asked_for_is_the_only_way() -> None:
    tiling = Tiling(AxisTiling(80, 24))
    [way] = ways(FULL_SIZE, shape_of(768, 512, 121), tiling, BF16)
    assert way.tiling == tiling and way.text == "decode in 2 tiles of 73 frames of 768x512"
    [way] = ways(FULL_SIZE, shape_of(768, 512, 121), None, BF16)
    assert way.text == "decode whole" and way.frames == 128


# The choice, and the second try

def decoded(pipe: Pipeline, latent: Tensor) -> Tensor:
    return torch.cat(list(pipe.decode_video(latent)))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_best_way_that_fits_is_taken(tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    latent, used = latent_of(9, 4, 6), []
    config = VideoVAEConfig.from_dict(tiny_overlay.require("video_decoder").config)
    found = ways(config, latent.shape, AUTO_TILING, torch.float32)
    real = Way.decoded
    monkeypatch.setattr(Way, "decoded", lambda way, *args: used.append(way) or real(way, *args))
    weights = Pipeline(tiny_overlay, device="cpu", dtype="fp32").component("video_decoder").size_bytes
    residency = LocalResidency(torch.device("cpu"), weights + int(1.11 * found[number].bytes))
    frames = decoded(Pipeline(tiny_overlay, dtype="fp32", residency=residency), latent)
    assert used == [found[number]] and len(frames) == 65


@pytest.mark.parametrize("after", [0, 3])
def test_a_device_that_had_less_gets_one_more_try(tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch,
                                                   caplog: pytest.LogCaptureFixture, after: int) -> None:
    """Frames that had left before the first try failed are not given twice."""
    caplog.set_level(logging.WARNING, logger="ltx23")
    latent, tries = latent_of(20, 2, 2), []
    pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32")
    want, real = decoded(pipe, latent), Way.decoded

    def failing(way: Way, *args: object) -> Iterator[Tensor]:
        tries.append(way)
        for number, piece in enumerate(real(way, *args)):
            if len(tries) == 1 and number == after:
                raise torch.cuda.OutOfMemoryError("injected")
            yield piece

    monkeypatch.setattr(Way, "decoded", failing)
    got = decoded(pipe, latent)
    assert got.shape == want.shape and (got - want).abs().max() < 1e-4
    assert len(tries) == 2 and tries[1].bytes < tries[0].bytes
    assert "The device had less memory than the" in caplog.text


def test_two_failures_are_an_error_with_the_numbers(tiny_overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(way: Way, *_: object) -> Iterator[Tensor]:
        raise torch.cuda.OutOfMemoryError("injected")
        yield

    monkeypatch.setattr(Way, "decoded", failing)
    with pytest.raises(OutOfMemoryError, match=r"video_decoder with .* GB of activations need"):
        decoded(Pipeline(tiny_overlay, device="cpu", dtype="fp32"), latent_of(20, 2, 2))


