"""From a prompt to an mp4 with sound: each part, the first time and warm.

    python -m bench end-to-end --checkpoint FILE --text-encoder FOLDER [--upsampler FILE] [--distilled-lora FILE]
        [--work one_stage:a,distilled:c] [--matmul-dtypes default,fp8] [--steps 30] [--first-steps 2]

Files of random weights are made by ``python -m bench.generate_weights``. Without PyAV the frames end as bytes on the
host, which is said. The first run of each work loads everything; the others find what the memory could keep, and have
a prompt of their own. A work that fails is said, and the next goes on. Without a LoRA a distilled recipe takes the
checkpoint as distilled weights.
"""
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from ltx23_core import Pipeline, materialize
from ltx23_core.errors import LTX23Error
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.run.stage import Latents

from .measure import table
from .models import SIZES

Row = list[object]

HEAD = ("size", "recipe", "products", "run", "prompts", "sampling", "decoding", "of it the device",
        "decoding beside the device", "all")
PROMPT, NEGATIVE = "a boat on a lake at dawn, gulls call over the water", "blurry, low quality"


class Clock:
    """Seconds of named parts, the device waited for after each."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[[], object]) -> object:
        """Run a part."""
        begin = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.parts[name] = time.perf_counter() - begin
        return result


def decode(pipe: Pipeline, latents: Latents, path: Path) -> None:
    """Into a file, or as far as this machine can."""
    if importlib.util.find_spec("av") is not None:
        pipe.decode_to_file(latents, path)
        return
    decode_alone(pipe, latents)


def decode_alone(pipe: Pipeline, latents: Latents) -> None:
    """What the device does of it."""
    pipe.decode_audio(latents.audio)
    for frames in pipe.decode_video(latents.video, eight_bit=True):
        del frames


def once(pipe: Pipeline, recipe: str, size: str, steps: int | None, prompt: str, path: Path,
         alone: bool) -> Row:
    """One run; seconds of its parts, the device's share of decoding if wanted, and of all.

    Args:
        pipe, recipe, size, prompt: what is run.
        steps: of a recipe that has no schedule of its own.
        path: of the mp4.
        alone: decode once more, without a file.
    """
    clock, (width, height, frames) = Clock(), SIZES[size]
    asked = {} if steps is None or RECIPES[recipe].stages[0].sigmas else {"steps": steps}
    pair = clock("prompts", lambda: pipe.encode(prompt, NEGATIVE))
    latents = clock("sampling", lambda: pipe.sample(pair, recipe=recipe, width=width, height=height, frames=frames,
                                                    seed=1, **asked))
    clock("decoding", lambda: decode(pipe, latents, path))
    parts: Row = list(clock.parts.values())
    whole, device, ratio = sum(parts), "–", "–"
    if alone:
        clock("the device", lambda: decode_alone(pipe, latents))
        device, ratio = clock.parts["the device"], f"{clock.parts['decoding'] / clock.parts['the device']:.3f}x"
    return [*parts, device, ratio, whole]


def works(text: str) -> list[tuple[str, str]]:
    """Recipe and size of each part of a command line's list."""
    found = []
    for part in text.split(","):
        recipe, _, size = part.partition(":")
        if recipe not in RECIPES or size not in SIZES:
            raise argparse.ArgumentTypeError(f"{part!r} is not RECIPE:SIZE")
        found.append((recipe, size))
    return found


def measure(args: argparse.Namespace, recipe: str, size: str, matmul_dtype: str, folder: Path, rows: list[Row]) -> None:
    """Add the rows of one work, each as soon as it is there."""
    distilled = recipe.startswith("distilled") and args.distilled_lora is None
    overlay = materialize(args.checkpoint, args.text_encoder, upsamplers=args.upsampler,
                          distilled_lora=args.distilled_lora, variant="distilled" if distilled else "auto",
                          output=folder / f"{recipe}.ltx23.json")
    pipe = Pipeline(overlay, device=args.device, matmul_dtype=matmul_dtype)
    for run in range(args.runs):
        steps = args.steps
        if run == 0 and args.first_steps is not None:
            steps = args.first_steps
        parts = once(pipe, recipe, size, steps, f"{PROMPT}, take {run}", folder / "bench.mp4", alone=run > 0)
        rows.append([size, recipe, matmul_dtype, "first" if run == 0 else f"again, {run}", *parts])
        print(f"# {rows[-1]}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--upsampler", type=Path, action="append", default=[])
    parser.add_argument("--distilled-lora", type=Path)
    parser.add_argument("--work", type=works, default=[("one_stage", "a")],
                        help=f"RECIPE:SIZE, joined by commas; of {', '.join(sorted(RECIPES))} and {', '.join(SIZES)}")
    parser.add_argument("--matmul-dtypes", type=lambda text: text.split(","), default=["default"])
    parser.add_argument("--steps", type=int, help="of recipes that have no schedule of their own")
    parser.add_argument("--first-steps", type=int, help="the same, of the first run of each; default: --steps")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe, size in args.work:
            for matmul_dtype in args.matmul_dtypes:
                try:
                    measure(args, recipe, size, matmul_dtype, Path(folder), rows)
                except (LTX23Error, RuntimeError) as error:
                    print(f"# {recipe} {size} {matmul_dtype}: Error: {' '.join(str(error).split())[:200]}", flush=True)
                    traceback.print_exc()
                gc.collect()  # the next one loads the same weights: they must not lie there twice
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
    if importlib.util.find_spec("av") is None:
        print("# no mp4: PyAV is not installed; frames end as bytes on the host", flush=True)
    print(table(HEAD, rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
