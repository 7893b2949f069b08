"""One-stage text to video on a GPU with 22B weights: every stage's time, peak memory, and whether it is right.

    python -m bench one_stage --checkpoint FILE --text-encoder DIR [--upsampler FILE] [--steps 4] [--out FILE]

Correctness is checked in the same call: outputs are finite and have the right shapes, a transformer of the true
widths in bfloat16 is compared with itself in float32 on random inputs, and the tiny model's float32 run on the CPU
with its bfloat16 run on the GPU.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ltx23_core import ImageCondition, Overlay, Pipeline, materialize
from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import VideoGrid, audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.memory.estimates import sampling_bytes
from ltx23_core.models.registry import build
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.runtime.load import load_module

TINY = Path(__file__).resolve().parents[1] / "tests" / "goldens" / "tiny"
CHECK_LAYERS = 4


def transformer_flops(config: TransformerConfig, video: int, audio: int, text: int = 1024) -> float:
    """Multiply-adds times two of one forward, by the formulas of spec/08 §4."""
    d, a, layers = config.video.width, config.audio.width, config.layers
    linear = 2 * video * (14 * d * d + 4 * d * a) + 2 * audio * 18 * a * a + 2 * text * (2 * d * d + 2 * a * a)
    attention = (4 * video * video * d + 4 * video * text * d + 8 * video * audio * a
                 + 4 * audio * (audio + text) * a)
    return layers * float(linear + attention)


def measured(name: str, rows: list[dict[str, object]], function: Callable[[], object]) -> object:
    """Run a stage; note wall seconds and peak device memory."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    rows.append({"stage": name, "seconds": round(time.perf_counter() - start, 3),
                 "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                 "above_start_gb": round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)})
    print(rows[-1], flush=True)
    return result


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want|| in float64."""
    return ((got.double().cpu() - want.double().cpu()).norm() / want.double().cpu().norm()).item()


def check_transformer(overlay: Overlay, grid: VideoGrid, device: torch.device) -> dict[str, float]:
    """Velocities of the first blocks of the true model, bfloat16 against float32, on random inputs, four passes."""
    entry = overlay.require("transformer")
    config = dict(entry.config, num_layers=CHECK_LAYERS)
    refs = {name: ref for name, ref in entry.tensors.items()
            if not name.startswith("transformer_blocks.") or int(name.split(".")[1]) < CHECK_LAYERS}
    generator = torch.Generator(device).manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).bfloat16()

    cfg = TransformerConfig.from_dict(config)
    length = audio_latent_length(grid.pixel_frames, 24.0)
    latents = random(1, grid.tokens, cfg.video.in_channels), random(1, length, cfg.audio.in_channels)
    texts = [random(1, 1024, width) for width in (cfg.video.width, cfg.audio.width) * 2]
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = build("transformer", config)
        load_module(model, refs, device, dtype, name=f"{CHECK_LAYERS} blocks")
        sigma = torch.full((1,), 0.7, device=device)
        streams = [StreamInput(latent.to(dtype), sigma, sigma[:, None]) for latent in latents]
        v, a, nv, na = (text.to(dtype) for text in texts)
        skip = frozenset((2,))
        passes = [Pass(v, a), Pass(nv, na), Pass(v, a, Perturbation(skip, skip)), Pass(v, a, Perturbation(cross=True))]
        with torch.no_grad():
            tables = model.tables(video_positions(grid, 24.0).to(device), audio_positions(length).to(device), dtype)
            results[dtype] = model(*streams, passes, tables)
        del model
    names = ("cond", "uncond", "perturbed", "modality")
    return {f"{name} {kind}": relative(low[which], high[which])
            for name, low, high in zip(names, results[torch.bfloat16], results[torch.float32], strict=True)
            for which, kind in enumerate(("video", "audio"))}


def check_tiny(device: torch.device) -> dict[str, float]:
    """Latents and frames of the tiny model: float32 on the CPU against bfloat16 and float32 on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        overlay = materialize(TINY / "ltx-2.3-tiny.safetensors", TINY / "gemma", variant="distilled",
                              output=Path(folder) / "tiny.json")
        settings = {"width": 192, "height": 128, "frames": 25, "noise_device": "cpu"}
        errors = {}
        for recipe, steps in (("distilled_one_stage", None), ("one_stage", 4)):
            runs = {}
            for name, place, dtype in (("cpu fp32", torch.device("cpu"), "fp32"), ("gpu bf16", device, "bf16"),
                                       ("gpu fp32", device, "fp32")):
                pipe = Pipeline(overlay, device=place, dtype=dtype)
                latents = pipe.sample(pipe.encode("a boat on a lake", "noise"), recipe=recipe, steps=steps, **settings)
                runs[name] = latents, torch.cat(list(pipe.decode_video(latents.video)))
            want, frames = runs["cpu fp32"]
            for name in ("gpu bf16", "gpu fp32"):
                got, shown = runs[name]
                errors[f"{recipe} {name} video latent"] = relative(got.video, want.video)
                errors[f"{recipe} {name} audio latent"] = relative(got.audio, want.audio)
                errors[f"{recipe} {name} frames, mean absolute"] = (shown - frames).abs().mean().item()
        return errors


def run(args: argparse.Namespace) -> dict[str, object]:
    """All measurements."""
    device, rows = torch.device("cuda"), []
    start = time.perf_counter()
    overlay = materialize(args.checkpoint, args.text_encoder, output=args.manifest)
    materialise = time.perf_counter() - start
    pipe = Pipeline(overlay, device=device)
    pair = measured("encode two prompts (loads Gemma, projection, connectors)", rows,
                    lambda: pipe.encode("a boat on a lake at dawn, gulls call", "blurry"))
    measured("encode two more prompts", rows, lambda: pipe.encode("rain on a tin roof, slow pan", "low quality"))
    size = {"width": args.width, "height": args.height, "frames": args.frames}
    measured("preview map (loads the video decoder)", rows, pipe.preview_map)
    latents = measured("sample 1 step (loads the transformer)", rows, lambda: pipe.sample(pair, steps=1, **size))
    times: list[float] = []

    def on_step(info: object) -> None:
        torch.cuda.synchronize()  # only here, to time single steps
        times.append(time.perf_counter())

    latents = measured(f"sample {args.steps} steps, timed one by one", rows,
                       lambda: pipe.sample(pair, steps=args.steps, on_step=on_step, **size))
    per_step = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    measured(f"sample {args.steps} steps with previews, free running", rows,
             lambda: pipe.sample(pair, steps=args.steps, on_step=lambda info: None, preview=True, **size))
    picture = ImageCondition(torch.rand(480, 640, 3), crf=0)
    image = measured("sample 1 step with an image (loads the video encoder)", rows,
                     lambda: pipe.sample(pair, steps=1, conditions=[picture], **size))
    frames = measured("decode video", rows, lambda: torch.cat(list(pipe.decode_video(latents.video))))
    measured("decode video again", rows, lambda: sum(len(c) for c in pipe.decode_video(latents.video)))
    sound = measured("decode audio", rows, lambda: pipe.decode_audio(latents.audio))
    measured("decode audio again", rows, lambda: pipe.decode_audio(latents.audio))
    grid, length = video_grid(**size), latents.audio.shape[2]
    config = pipe.transformer_config
    shapes = {"video": tuple(latents.video.shape), "audio": tuple(latents.audio.shape), "frames": tuple(frames.shape),
              "waveform": tuple(sound.waveform.shape)}
    assert shapes["video"] == (1, 128, grid.frames, grid.height, grid.width), shapes
    assert shapes["frames"] == (args.frames, args.height, args.width, 3), shapes
    finite = {name: bool(torch.isfinite(t).all()) for name, t in (
        ("video", latents.video), ("audio", latents.audio), ("image run", image.video), ("frames", frames),
        ("waveform", sound.waveform))}
    assert all(finite.values()), finite
    std = {"video": latents.video.float().std().item(), "audio": latents.audio.float().std().item(),
           "frames": frames.std().item(), "waveform": sound.waveform.std().item()}
    pipe.residency.release()
    torch.cuda.empty_cache()
    forward = transformer_flops(config, grid.tokens, length)
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "materialise_s": round(materialise, 3),
            "size": size, "stages": rows, "step_s": {"median": per_step[len(per_step) // 2], "all": per_step},
            "tflop": {"forward": forward / 1e12}, "estimated_activation_gb": sampling_bytes(
                config, grid.tokens, length, 4, 1, 2) / 1e9, "shapes": shapes, "finite": finite, "std": std,
            "bf16_against_fp32": check_transformer(overlay, grid, device), "tiny": check_tiny(device)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path(tempfile.gettempdir()) / "bench.ltx23.json")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    result = json.dumps(run(args), indent=1)
    print(result)
    if args.out:
        args.out.write_text(result)


if __name__ == "__main__":
    main()
