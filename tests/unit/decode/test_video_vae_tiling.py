"""Tiles of the video VAE: geometry, validation, streaming, memory estimate; names and shapes at full size."""
from __future__ import annotations

import gzip
import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ltx23_core.config import VideoVAEConfig
from ltx23_core.decode.tiles import (
    AxisTiling,
    Span,
    Tiling,
    auto_tiling,
    axis_masks,
    chunk_frames,
    plan_axes,
    split_axis,
    tiled_decode,
    tiled_encode,
)
from ltx23_core.decode.ways import activation_bytes, tiled_bytes
from ltx23_core.errors import GeometryError, OverlayError
from ltx23_core.models.registry import build
from ltx23_core.models.video_vae.encoder import crop_frames
from ltx23_core.models.video_vae.layers import depth_to_space, patchify, space_to_depth, unpatchify

GOLDENS = Path(__file__).parents[2] / "goldens"
MANIFEST = json.loads(gzip.decompress((GOLDENS / "manifest-22b-dev.json.gz").read_bytes()))
FULL_SIZE = VideoVAEConfig.from_dict(MANIFEST["metadata"]["config"]["vae"])
TINY = {"latent_channels": 4, "patch_size": 4, "encoder_base_channels": 4, "decoder_base_channels": 4,
        "encoder_blocks": [["res_x", {"num_layers": 1}], ["compress_space_res", {"multiplier": 2}],
                           ["compress_time_res", {"multiplier": 2}], ["compress_all_res", {"multiplier": 2}],
                           ["compress_all_res", {"multiplier": 1}]],
        "decoder_blocks": [["res_x", {"num_layers": 1}], ["compress_space", {"multiplier": 2}],
                           ["compress_time", {"multiplier": 2}], ["compress_all", {"multiplier": 1}],
                           ["compress_all", {"multiplier": 2}], ["res_x", {"num_layers": 1}]]}


def nearest_decode(latent: Tensor) -> Tensor:
    """A stand-in whose pixels depend on their own latent only, so that any right blend gives the one-shot result."""
    pixels = latent[:, :3].repeat_interleave(32, 3).repeat_interleave(32, 4)
    return torch.cat([pixels[:, :, :1], pixels[:, :, 1:].repeat_interleave(8, 2)], dim=2)


def nearest_encode(pixels: Tensor) -> Tensor:
    return pixels[:, :, ::8, ::32, ::32]


def random_module(component: str) -> torch.nn.Module:
    module = build(component, TINY).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.1)
    return module


# Geometry

@pytest.mark.parametrize(("length", "tile", "overlap", "want"), [
    (10, 80, 24, [Span(0, 10)]),
    (16, 80, 24, [Span(0, 10, 0, 3), Span(6, 16, 4, 0)]),
    (11, 80, 24, [Span(0, 10, 0, 3), Span(6, 11, 4, 0)]),
    (4, 24, 0, [Span(0, 3), Span(2, 4, 1, 0)]),
])
def test_frames_start_one_latent_earlier(length: int, tile: int, overlap: int, want: list[Span]) -> None:
    assert split_axis(length, AxisTiling(tile, overlap), 8, temporal=True) == want


def test_frames_in_pixels() -> None:
    assert Span(0, 10, 0, 3).to_pixels(8, temporal=True) == Span(0, 73, 0, 24)
    assert Span(6, 16, 4, 0).to_pixels(8, temporal=True) == Span(48, 121, 25, 0)
    assert Span(12, 26, 2, 2).to_pixels(32, temporal=False) == Span(384, 832, 64, 64)


@pytest.mark.parametrize("temporal", [True, False])
def test_masks_sum_to_one(temporal: bool) -> None:
    factor = 8 if temporal else 32
    for length, tile, overlap in product(range(1, 23), range(2, 9), range(8)):
        if overlap >= tile:
            continue
        latent = split_axis(length, AxisTiling(tile * factor, overlap * factor), factor, temporal)
        assert latent[0].start == 0 and latent[-1].end == length
        for spans in (latent, [span.to_pixels(factor, temporal) for span in latent]):
            total = torch.zeros(spans[-1].end)
            for span, mask in zip(spans, axis_masks(spans, temporal), strict=True):
                total[span.start:span.end] += mask
            assert (total - 1).abs().max() < 1e-5, (length, tile, overlap)


def test_auto_follows_the_aspect_ratio() -> None:
    tiling = auto_tiling((1, 128, 16, 34, 60))
    assert tiling == Tiling(AxisTiling(80, 24), AxisTiling(448, 64), AxisTiling(768, 64))
    assert auto_tiling((1, 128, 1, 2, 60)).height == AxisTiling(96, 64), "never below the overlap + 1 latent"


@pytest.mark.parametrize(("axis", "tile", "overlap", "said"), [
    ("frames", 8, 0, "frames tile is 8. Expected: a multiple of 8, at least 16. Next: Use 16."),
    ("frames", 20, 8, "frames tile is 20"), ("height", 32, 0, "height tile is 32"),
    ("width", 100, 32, "width tile is 100"),
    ("frames", 24, 24, "frames overlap is 24 for a tile of 24. Expected: a multiple of 8, 0 or more and below the "
                       "tile. Next: Use 16."),
    ("height", 64, 30, "height overlap is 30"), ("width", 64, -32, "Use 0."),
])
def test_wrong_tiles_are_refused(axis: str, tile: int, overlap: int, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        Tiling(**{axis: AxisTiling(tile, overlap)})


def test_encoding_needs_a_larger_overlap() -> None:
    with pytest.raises(GeometryError, match="width overlap is 32. Expected: at least 64 for encoding"):
        tiled_encode(nearest_encode, torch.zeros(1, 3, 1, 64, 64), Tiling(width=AxisTiling(128, 32)))


# Decoding and encoding

TILINGS = [None, Tiling(), Tiling(height=AxisTiling(64, 32)),
           Tiling(width=AxisTiling(64, 32), height=AxisTiling(64, 0)), Tiling(frames=AxisTiling(24, 8)),
           Tiling(frames=AxisTiling(24, 0)), Tiling(frames=AxisTiling(24, 16)),
           Tiling(AxisTiling(32, 24), AxisTiling(96, 64), AxisTiling(64, 32))]


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("frames", [1, 4, 9])
def test_decode_blends_to_the_whole(tiling: Tiling | None, frames: int) -> None:
    latent = torch.randn(2, 3, frames, 5, 4, generator=torch.Generator().manual_seed(1))
    chunks = list(tiled_decode(nearest_decode, latent, tiling))
    assert [chunk.shape[2] for chunk in chunks] == chunk_frames(frames, tiling)
    if tiling is None or tiling.frames is None:
        assert len(chunks) == 1
    torch.testing.assert_close(torch.cat(chunks, 2), nearest_decode(latent), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tiling", [None, Tiling(AxisTiling(24, 16), AxisTiling(128, 64)),
                                    Tiling(AxisTiling(32, 16), AxisTiling(96, 64), AxisTiling(128, 64))])
def test_encode_blends_to_the_whole(tiling: Tiling | None) -> None:
    pixels = torch.randn(1, 3, 52, 256, 160, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(tiled_encode(nearest_encode, pixels, tiling), nearest_encode(pixels[:, :, :49]),
                               atol=1e-5, rtol=1e-5)


def test_untiled_axes_are_one_shot() -> None:
    decoder, latent = random_module("video_decoder"), torch.randn(1, 4, 3, 3, 3)
    assert torch.equal(*tiled_decode(decoder, latent, auto_tiling(latent.shape)), decoder(latent))


def test_streams_and_checks_before_each_tile() -> None:
    events: list[str] = []

    def decoder(tile: Tensor) -> Tensor:
        events.append("tile")
        return nearest_decode(tile)

    latent, tiling = torch.zeros(1, 3, 40, 2, 4), Tiling(AxisTiling(24, 8), width=AxisTiling(64, 0))
    for _ in tiled_decode(decoder, latent, tiling, lambda: events.append("check")):
        events.append("chunk")
    groups = len(chunk_frames(40, tiling))
    assert groups > 5 and events == ["check", "tile", "check", "tile", "chunk"] * groups


def test_check_interrupts() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(tiled_decode(nearest_decode, torch.zeros(1, 3, 9, 4, 4), Tiling(AxisTiling(24, 8)), check))
    with pytest.raises(KeyboardInterrupt):
        calls.clear()
        tiled_encode(nearest_encode, torch.zeros(1, 3, 65, 64, 64), Tiling(AxisTiling(24, 16)), check)


def test_bfloat16_stays_bfloat16() -> None:
    decoder, encoder = random_module("video_decoder").bfloat16(), random_module("video_encoder").bfloat16()
    latent = torch.randn(1, 4, 4, 3, 2).bfloat16()
    pixels = torch.cat(list(tiled_decode(decoder, latent, Tiling(AxisTiling(24, 8), AxisTiling(64, 32)))), 2)
    assert pixels.dtype == torch.bfloat16 and pixels.shape == (1, 3, 25, 96, 64) and pixels.isfinite().all()
    assert encoder(pixels).dtype == torch.bfloat16


# Encoder input, layers, names

def test_frames_are_cropped_and_sizes_checked(caplog: pytest.LogCaptureFixture) -> None:
    assert crop_frames(torch.zeros(1, 3, 9, 32, 32)).shape[2] == 9 and not caplog.records
    assert crop_frames(torch.zeros(1, 3, 16, 32, 32)).shape[2] == 9 and "the last 7 are left out" in caplog.text
    with pytest.raises(GeometryError, match="height is 40. Expected: a multiple of 32. Next: Resize to a height of 32"):
        crop_frames(torch.zeros(1, 3, 1, 40, 32))
    with pytest.raises(GeometryError, match="no frames"):
        crop_frames(torch.zeros(1, 3, 0, 32, 32))


def test_layouts_are_inverse_and_ordered() -> None:
    x = torch.arange(2 * 3 * 4 * 8 * 8).view(2, 3, 4, 8, 8)
    assert torch.equal(depth_to_space(space_to_depth(x, (2, 2, 2)), (2, 2, 2)), x)
    assert torch.equal(unpatchify(patchify(x, 4), 4), x)
    assert torch.equal(patchify(x, 4)[:, 1 * 16 + 2 * 4 + 3, :, 1, 0], x[:, 1, :, 4 + 3, 2]), "width offset is slower"
    assert torch.equal(space_to_depth(x, (2, 2, 2))[:, 1 * 8 + 1 * 4 + 0 * 2 + 1, 1, 2, 3], x[:, 1, 3, 4, 7])


@pytest.mark.parametrize("component", ["video_encoder", "video_decoder"])
def test_names_and_shapes_at_full_size(component: str) -> None:
    prefix = component.replace("video_", "vae.") + "."
    want = {name.removeprefix(prefix).removeprefix("vae."): tuple(shape) for name, (_, *shape)
            in MANIFEST["tensors"].items() if name.startswith((prefix, "vae.per_channel_statistics."))}
    module = build(component, MANIFEST["metadata"]["config"]["vae"])
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == want


def test_unknown_block_is_refused() -> None:
    with pytest.raises(OverlayError, match="block 'attn_x'"):
        build("video_decoder", {**TINY, "decoder_blocks": [["attn_x", {"num_layers": 1}]]})


# Memory

class PeakBytes(TorchDispatchMode):
    """Most bytes of living storages made by the operations inside, as a caching allocator would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.sizes[out.untyped_storage()] = out.untyped_storage().nbytes()
            self.peak = max(self.peak, sum(self.sizes.values()))
        return out


@pytest.mark.parametrize("shape", [(1, 128, 11, 16, 24), (2, 128, 1, 8, 8), (1, 128, 5, 34, 60)])
def test_activation_estimate_is_the_real_peak(shape: tuple[int, ...]) -> None:
    """On the meta device at full size: what is alive at once, without what a convolution takes inside."""
    decoder = build("video_decoder", MANIFEST["metadata"]["config"]["vae"]).bfloat16()
    latent = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    with PeakBytes() as mode:
        decoder(latent)
    assert mode.peak == pytest.approx(activation_bytes(FULL_SIZE, shape, torch.bfloat16), rel=0.03)


def test_decode_memory_does_not_grow_with_length() -> None:
    tiling = auto_tiling((1, 128, 33, 34, 60))
    short, long = (tiled_bytes(FULL_SIZE, (1, 128, frames, 34, 60), tiling, torch.bfloat16)
                   for frames in (33, 330))
    assert short == long < activation_bytes(FULL_SIZE, (1, 128, 33, 34, 60), torch.bfloat16) / 4
    peaks = []
    for frames in (33, 99):
        with PeakBytes() as mode:
            for chunk in tiled_decode(nearest_decode, torch.zeros(1, 3, frames, 2, 4), Tiling(AxisTiling(80, 24))):
                del chunk
        peaks.append(mode.peak)
    assert peaks[0] == pytest.approx(peaks[1], rel=0.05)


def test_plan_matches_the_latent() -> None:
    plans = plan_axes((1, 8, 16, 34, 60), auto_tiling((16, 34, 60)))
    assert [len(plan.latent) for plan in plans] == [2, 3, 3]
    assert [plan.pixel[-1].end for plan in plans] == [121, 1088, 1920]
