"""Write the shipped files from training files: `python -m tools.tiny_world.train.export`.

One official-format checkpoint with metadata, the Gemma folder, the spatial upscaler and the distilled LoRA: what a
user of the real model has, and what an ordinary `materialize` takes.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tools.tiny_world.train import gemma
from tools.tiny_world.train.common import write_tensors
from tools.tiny_world.train.configs import CHECKPOINT, MODEL_VERSION, UPSAMPLER
from tools.tiny_world.train.distil import official_lora
from tools.tiny_world.train.tokenizer import ROOT

NAME = "ltx-2.3-tiny-world"
# Training file, part of it -> prefix in the checkpoint (spec/01 §2).
PREFIXES = (("video_vae", "encoder", "vae.encoder."), ("video_vae", "decoder", "vae.decoder."),
            ("audio_vae", "encoder", "audio_vae.encoder."), ("audio_vae", "decoder", "audio_vae.decoder."),
            ("vocoder", "vocoder", "vocoder."), ("transformer", "transformer", "model.diffusion_model."),
            ("transformer", "connectors", "model.diffusion_model."),
            ("transformer", "text_projection", "text_embedding_projection."))
STATISTICS = "per_channel_statistics."


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of the official single file, bfloat16; encoder and decoder share one pair of statistics."""
    tensors: dict[str, Tensor] = {}
    for file, part, prefix in PREFIXES:
        for name, value in load_file(folder / f"{file}.safetensors").items():
            if not name.startswith(f"{part}."):
                continue
            own = name.removeprefix(f"{part}.")
            shared = own.startswith(STATISTICS)
            target = prefix.split(".")[0] + "." + own if shared else prefix + own
            tensors[target] = value.bfloat16()
    return tensors


def export(folder: Path, target: Path) -> dict[str, int]:
    """Write the files whose components are trained; name -> bytes."""
    target.mkdir(parents=True, exist_ok=True)
    metadata = {"model_version": MODEL_VERSION, "config": json.dumps(CHECKPOINT)}
    write_tensors(checkpoint(folder), target / f"{NAME}.safetensors", metadata)
    gemma.write_folder(folder, target / "gemma")
    if (folder / "upsampler.safetensors").is_file():
        tensors = {name.removeprefix("upsampler."): value.bfloat16()
                   for name, value in load_file(folder / "upsampler.safetensors").items()}
        write_tensors(tensors, target / f"{NAME}-spatial-upscaler-x2.safetensors", {"config": json.dumps(UPSAMPLER)})
    if (folder / "lora.safetensors").is_file():
        write_tensors(official_lora(folder), target / f"{NAME}-distilled-lora.safetensors")
    return {str(path.relative_to(target)): path.stat().st_size for path in sorted(target.rglob("*")) if path.is_file()}


def main() -> None:
    """Export and print the sizes."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train.export", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/tiny"))
    parser.add_argument("--target", type=Path, default=ROOT / "tiny")
    options = parser.parse_args()
    sizes = export(options.folder, options.target)
    for name, size in sizes.items():
        print(f"{size / 1e6:8.3f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.3f} MB  in all")


if __name__ == "__main__":
    main()
