"""From a prompt to an mp4 with sound: each part, the first time and warm.

    python -m bench end-to-end --checkpoint FILE --text-encoder FOLDER [--upsampler FILE] [--distilled-lora FILE]
        [--recipe one_stage] [--sizes a] [--steps 30]

Files of random weights are made by ``python -m bench.generate_weights``. Without PyAV the frames end as bytes on the
host, which is said. The first run loads everything; the others find what the memory could keep.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ltx23_core import Pipeline, materialize
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.run.stage import Latents

from .measure import table
from .models import SIZES

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


def once(pipe: Pipeline, args: argparse.Namespace, size: str, path: Path) -> dict[str, float]:
    """One run; seconds of its parts and of all."""
    clock, (width, height, frames) = Clock(), SIZES[size]
    steps = {} if args.steps is None or RECIPES[args.recipe].stages[0].sigmas else {"steps": args.steps}
    pair = clock("prompts", lambda: pipe.encode(PROMPT, NEGATIVE))
    latents = clock("sampling", lambda: pipe.sample(pair, recipe=args.recipe, width=width, height=height,
                                                    frames=frames, seed=1, **steps))
    clock("decoding", lambda: decode(pipe, latents, path))
    whole = sum(clock.parts.values())
    clock("of it the device", lambda: decode_alone(pipe, latents))
    ratio = clock.parts["decoding"] / clock.parts["of it the device"]
    return clock.parts | {"decoding beside the device": ratio, "all": whole}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--upsampler", type=Path, action="append", default=[])
    parser.add_argument("--distilled-lora", type=Path)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="one_stage")
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["a"], help=f"of {', '.join(SIZES)}")
    parser.add_argument("--steps", type=int, help="of recipes that have no schedule of their own")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        overlay = materialize(args.checkpoint, args.text_encoder, upsamplers=args.upsampler,
                              distilled_lora=args.distilled_lora, output=Path(folder) / "bench.ltx23.json")
        pipe = Pipeline(overlay, device=args.device)
        for size in args.sizes:
            for run in range(args.runs):
                parts = once(pipe, args, size, Path(folder) / "bench.mp4")
                rows.append([size, args.recipe, "first" if run == 0 else f"again, {run}", *parts.values()])
                print(f"# {rows[-1]}", flush=True)
    if importlib.util.find_spec("av") is None:
        print("# no mp4: PyAV is not installed; frames end as bytes on the host", flush=True)
    print(table(("size", "recipe", "run", *parts), rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
