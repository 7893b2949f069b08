"""What a mode does to results: the tiny model's clips, judged by the evaluator of its world, beside bf16's.

    python -m bench quality [--mode fp8 --mode q4 …] [--prompts 200] [--recipe one_stage] [--steps 30] [--features]

A mode is a way to run the same model: `MODES` lists them. Prompts are held out: training never saw their triples of
colour, shape and motion. Scores are shares of right clips, with Wilson's 95 % interval for those that follow their
prompt; pitch is the share of time, PSNR is to bf16's own pictures. With `--keep FOLDER` a run that was stopped goes on.
"""
from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx23_core import Guidance, GuiderParams, Overlay, Pipeline, materialize
from ltx23_core.decode.tiles import AxisTiling, Tiling
from ltx23_core.plan.latents import Latents
from ltx23_core.plan.recipes import RECIPES
from tools.tiny_world.captions import understand
from tools.tiny_world.evaluate import Verdict, judge, summary
from tools.tiny_world.prompts import SEED, held_out_prompts
from tools.tiny_world.shipped import SIZE, files

from .measure import table
from .quality_kept import Kept

SCORES = ("followed", "colour", "shape", "motion", "bounces", "pitch", "pan")
FPS, RATE = 24.0, 48000
OnClip = Callable[[int, Verdict, np.ndarray, np.ndarray], None]
LOSSLESS = 99.0       # dB that stand for equal pictures


@dataclass(frozen=True)
class Mode:
    """How a pipeline runs.

    Attributes:
        pipeline: options of `Pipeline`.
        settings: of a run.
        tiling: of the decoder.
        lossy: whether results may differ by more than rounding.
    """

    pipeline: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    tiling: Tiling | None = None
    lossy: bool = False


MODES: dict[str, Mode] = {
    "bf16": Mode({"dtype": "bf16"}),
    "fp32": Mode({"dtype": "fp32"}),
    "fp8": Mode({"dtype": "bf16", "weight_dtype": "fp8_e4m3fn"}, lossy=True),
    "int8": Mode({"dtype": "bf16", "weight_dtype": "int8"}, lossy=True),
    "q8": Mode({"dtype": "bf16", "weight_dtype": "Q8_0"}, lossy=True),
    "q4": Mode({"dtype": "bf16", "weight_dtype": "Q4_K"}, lossy=True),
    "fp8-products": Mode({"dtype": "bf16", "weight_dtype": "fp8_e4m3fn", "matmul_dtype": "fp8"}, lossy=True),
    "int8-products": Mode({"dtype": "bf16", "weight_dtype": "int8", "matmul_dtype": "int8"}, lossy=True),
    "cache": Mode({"dtype": "bf16"}, {"easy_cache": 0.1}, lossy=True),
    "stream": Mode({"dtype": "bf16", "memory": "stream"}),
    "tiled": Mode({"dtype": "bf16"}, tiling=Tiling(height=AxisTiling(96, 64), width=AxisTiling(128, 64)), lossy=True),
    "cfg1": Mode({"dtype": "bf16"}, {"guidance": Guidance()}, lossy=True),
    "cfg3": Mode({"dtype": "bf16"}, {"guidance": Guidance(GuiderParams(3.0), GuiderParams(3.0))}, lossy=True),
    "distilled": Mode({"dtype": "bf16"}, {"recipe": "distilled_one_stage"}, lossy=True),
}


def open_tiny(folder: Path, target: Path) -> Overlay:
    """The overlay of the tiny model's files, as of any others."""
    parts = files(folder)
    return materialize(parts.checkpoint, parts.text_encoder, upsamplers=parts.upsamplers,
                       distilled_lora=parts.distilled_lora, output=target / "tiny.ltx23.json")


def settings_of(mode: Mode, given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run: the mode's over what the command line says."""
    settings = {**given, **mode.settings}
    if RECIPES[settings["recipe"]].stages[0].sigmas:
        settings.pop("steps", None)
    return settings


def clip_of(pipe: Pipeline, latents: Latents, tiling: Tiling | None = None) -> tuple[np.ndarray, np.ndarray]:
    """8-bit frames (F, H, W, 3) and sound (2, samples) at 48 kHz, as a file would get them."""
    frames = torch.cat(list(pipe.decode_video(latents.video, tiling, eight_bit=True))).numpy()
    sound = latents.waveform or pipe.decode_audio(latents.audio)
    return frames, sound.waveform[0].numpy()


def interval(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, measured on ``count`` clips."""
    middle = right + z * z / (2 * count)
    half = z * math.sqrt(right * (1 - right) / count + z * z / (4 * count * count))
    below = 1 + z * z / count
    return (middle - half) / below, (middle + half) / below


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of 8-bit pictures in dB."""
    error = np.square(one.astype(np.float64) - other).mean()
    return LOSSLESS if error == 0 else min(LOSSLESS, 10 * math.log10(255**2 / error))


@dataclass
class Results:
    """Clips of one mode."""

    verdicts: list[Verdict]
    frames: list[np.ndarray]
    seconds: float


def run(overlay: Overlay, mode: Mode, prompts: Sequence[str], given: dict[str, Any], device: str = "auto",
        on_clip: OnClip | None = None, kept: Path | None = None) -> Results:
    """Make and judge a clip for each prompt, with the seeds 0, 1, …; those that ``kept`` has are not made again."""
    pipe, settings = Pipeline(overlay, device=device, **mode.pipeline), settings_of(mode, given)
    store, results = Kept(kept, *sources(overlay), mode, settings), Results([], [], 0.0)
    for seed, prompt in enumerate(prompts):
        found = store.read(seed, prompt)
        if found is None:
            begin = time.perf_counter()
            latents = pipe.sample(pipe.encode(prompt), seed=seed, noise_device="cpu", **settings)
            clip = clip_of(pipe, latents, mode.tiling)
            found = (*clip, time.perf_counter() - begin)
            store.write(seed, prompt, *found)
        frames, wave, seconds = found
        verdict = judge(frames, FPS, wave, RATE, understand(prompt))
        results.verdicts.append(verdict)
        results.frames.append(frames)
        results.seconds += seconds
        if on_clip:
            on_clip(seed, verdict, frames, wave)
    return results


def sources(overlay: Overlay) -> list[Path]:
    """The files of an overlay."""
    return sorted(Path(source.path) for source in overlay.sources)


def row(name: str, results: Results, baseline: Results | None) -> list[object]:
    """One row of the table."""
    scores = summary(results.verdicts)
    compared = "" if baseline is None else round(float(np.mean(list(map(psnr, results.frames, baseline.frames)))), 1)
    shares = [round(100 * scores[name], 1) if name in scores else "" for name in SCORES]
    low, high = interval(scores["followed"], len(results.verdicts))
    return [name, "yes" if MODES[name].lossy else "no", f"{100 * low:.0f}-{100 * high:.0f}", *shares, compared,
            round(results.seconds / len(results.verdicts), 2)]


def compare(overlay: Overlay, names: Iterable[str], prompts: Sequence[str], given: dict[str, Any],
            device: str = "auto", baseline: str = "bf16", kept: Path | None = None) -> list[list[object]]:
    """The baseline, then the modes: rows of the table."""
    first, rows = run(overlay, MODES[baseline], prompts, given, device, kept=kept), []
    rows.append(row(baseline, first, None))
    print(f"# {rows[-1]}", flush=True)
    for name in names:
        if name != baseline:
            rows.append(row(name, run(overlay, MODES[name], prompts, given, device, kept=kept), first))
            print(f"# {rows[-1]}", flush=True)
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", action="append", choices=sorted(MODES), help="beside the baseline; default: none")
    parser.add_argument("--baseline", choices=sorted(MODES), default="bf16", help="what the modes are set beside")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--set", type=int, default=SEED, help="seed of the prompts: another number, other prompts")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="one_stage")
    parser.add_argument("--steps", type=int, help="of recipes that have no schedule of their own")
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--features", action="store_true", help="recipes, conditions, long video and LoRA instead")
    parser.add_argument("--feature", action="append", help="some of the features alone")
    parser.add_argument("--parts", action="store_true", help="rendered scenes through single parts instead")
    parser.add_argument("--folder", type=Path, help="files of the model (default: the repository's tiny/)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep", type=Path, help="folder where clips and scores are kept: a stopped run goes on there")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = parse()
    width, height, frames = args.size
    given = {"recipe": args.recipe, "width": width, "height": height, "frames": frames}
    if args.steps:
        given["steps"] = args.steps
    with tempfile.TemporaryDirectory() as target:
        folder = args.folder or files().folder
        overlay = open_tiny(folder, Path(target))
        if args.parts:
            from . import quality_parts
            pipe = Pipeline(overlay, device=args.device)
            heads, rows = quality_parts.HEADS, quality_parts.measure(pipe, args.prompts)
        elif args.features or args.feature:
            from .quality_features import CHECKS, HEADS, Maker, measure
            maker = Maker(Pipeline(overlay, device=args.device), files(folder).distilled_lora, args.steps)
            heads, rows = HEADS, measure(maker, args.prompts, args.feature or tuple(CHECKS), args.keep)
        else:
            heads = ("mode", "lossy", "95 %", *SCORES, f"dB to {args.baseline}", "s a clip")
            prompts = held_out_prompts(args.prompts, args.set)
            rows = compare(overlay, args.mode or (), prompts, given, args.device, args.baseline, args.keep)
    print(table(heads, rows))
    if args.out:
        args.out.write_text(json.dumps([list(heads), *rows], indent=1))


if __name__ == "__main__":
    main()
