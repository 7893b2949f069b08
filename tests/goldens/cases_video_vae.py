"""Golden cases: video VAE."""
from __future__ import annotations

import math

import torch

from ltx23_core.decode.tiles import (
    AUTO_FRAMES,
    AXES,
    AxisTiling,
    Tiling,
    auto_tiling,
    chunk_frames,
    plan_axes,
    ramp_mask,
    tiled_decode,
    tiled_encode,
)

from .harness import Case, case, module


def _pixels(u8: torch.Tensor) -> torch.Tensor:
    return u8.float() / 127.5 - 1


def _tiling(settings: dict) -> Tiling:
    return Tiling(**{axis: AxisTiling(settings[axis]["tile_size"], settings[axis]["overlap"])
                     for axis in AXES if axis in settings})


@case("video_vae_encode")
def video_vae_encode(run: Case) -> None:
    for name in run.entry["outputs"]:
        run.check(name, module("video_encoder")(_pixels(run.inputs[name.replace("_latent", "_u8")])))


@case("video_vae_decode")
def video_vae_decode(run: Case) -> None:
    for name in run.entry["outputs"]:
        run.check(name, module("video_decoder")(run.inputs[f"{name}_latent"]))


@case("video_vae_tiled")
def video_vae_tiled(run: Case) -> None:
    for name, settings in run.raw_settings.items():
        tiling = _tiling(settings)
        if f"{name}.latent" in run.entry["outputs"]:
            pixels = _pixels(run.inputs[f"{name}.video_u8"])
            run.check(f"{name}.latent", tiled_encode(module("video_encoder"), pixels, tiling))
            continue
        latent = run.inputs[f"{name}.latent"]
        chunks = list(tiled_decode(module("video_decoder"), latent, tiling))
        frames = [chunk.shape[2] for chunk in chunks]
        assert frames == chunk_frames(latent.shape[2], tiling)
        run.check(f"{name}.chunk_frames", torch.tensor(frames))
        run.check(f"{name}.video", torch.cat(chunks, dim=2))


@case("tiling_auto")
def tiling_auto(run: Case) -> None:
    rows = []
    for frames, height, width in run.inputs["sizes"].tolist():
        shape = [(frames - 1) // 8 + 1, height // 32, width // 32]
        tiling = auto_tiling(shape)
        plans = plan_axes(shape, tiling)
        complementary = True
        for axis, size, plan in zip(AXES, (frames, height, width), plans, strict=True):
            masks = [ramp_mask(span, plan.temporal) for span in plan.pixel]
            total = torch.zeros(size)
            for span, mask in zip(plan.pixel, masks, strict=True):
                total[span.start:span.end] += mask
            complementary &= (total - 1).abs().max().item() <= 1e-5
            tiles = [[s.start, s.end, s.left, s.right, p.start, p.end]
                     for s, p in zip(plan.latent, plan.pixel, strict=True)]
            run.check(f"{frames}x{height}x{width}.{axis}.tiles", torch.tensor(tiles))
            run.check(f"{frames}x{height}x{width}.{axis}.masks", torch.cat(masks))
        counts = [len(plan.latent) for plan in plans]
        # The official code announces this many chunks and yields one a tile along frames. Nothing in the library
        # announces a wrong number (`chunk_frames` has the right one), so the formula lives here only.
        announced = math.ceil((frames - 1) / (AUTO_FRAMES[0] - AUTO_FRAMES[1]))
        sizes = [value for axis in tiling.axes for value in (axis.tile, axis.overlap)]
        rows.append([*shape, *sizes, *counts, math.prod(counts), int(complementary), announced])
        assert len(chunk_frames(shape[0], tiling)) == counts[0]
    run.check("table", torch.tensor(rows))
