"""`python -m tools.tiny_world.train <component>`: train one component, or go on training it."""
from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

import torch

from tools.tiny_world.train.common import pick_device

COMPONENTS = ("gemma", "video_vae", "audio", "vocoder", "transformer", "upsampler", "distil")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train", description=__doc__)
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument("--folder", type=Path, default=Path("out/tiny"), help="where files are read and written")
    parser.add_argument("--minutes", type=float, default=5.0, help="budget of the run")
    parser.add_argument("--steps", type=int, help="end after so many steps, if that comes first")
    parser.add_argument("--batch", type=int, help="samples a step (default: the component's)")
    parser.add_argument("--seed", type=int, help="of data and noise (default: the component's)")
    parser.add_argument("--rate", type=float, help="highest learning rate (default: the component's)")
    parser.add_argument("--clips", type=int, help="in the bank of latents (default: the component's)")
    parser.add_argument("--only-decoder", action="store_true", help="video_vae: the encoder stays as it is")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights that compute "
                        "(default: bfloat16 on a GPU)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the component's training."""
    options = parse()
    device = pick_device(options.device)
    name = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    train = importlib.import_module(f"tools.tiny_world.train.{options.component}").train
    chosen = {key: getattr(options, key) for key in ("batch", "seed", "rate", "clips", "only_decoder")}
    given = {key: value for key, value in chosen.items() if value is not None}
    known = inspect.signature(train).parameters
    train(options.folder, options.minutes, device, getattr(torch, name), steps=options.steps,
          **{key: value for key, value in given.items() if key in known})


if __name__ == "__main__":
    main()
