"""Make training files from shipped ones, where those of a run are gone: `python -m tools.tiny_world.train.start`.

The inverse of `export`: a later run goes on from what the repository has, rounded to bfloat16.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tools.tiny_world.train.common import write_tensors
from tools.tiny_world.train.distil import Lora
from tools.tiny_world.train.export import NAME, PREFIXES, STATISTICS
from tools.tiny_world.train.tokenizer import ROOT
from tools.tiny_world.train.transformer import fresh

_GEMMA = "language_model.model."


def own_name(name: str, file: str, part: str, prefix: str, connectors: set[str]) -> str | None:
    """A checkpoint's tensor under its name within a part of a training file; None: it belongs to another part."""
    family = prefix.split(".")[0] + "."
    if name.startswith(family + STATISTICS):
        return name.removeprefix(family)
    own = name.removeprefix(prefix)
    if own == name:
        return None
    shared = file == "transformer" and part != "text_projection"  # one prefix for the transformer and its connectors
    if shared and (own in connectors) != (part == "connectors"):
        return None
    return own


def parts_of(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Training file -> its tensors, float32, from those of the checkpoint."""
    connectors = set(fresh(torch.device("cpu"))["connectors"].state_dict())
    files: dict[str, dict[str, Tensor]] = {}
    for file, part, prefix in PREFIXES:
        for name, value in tensors.items():
            own = own_name(name, file, part, prefix, connectors)
            if own is not None:
                files.setdefault(file, {})[f"{part}.{own}"] = value.float()
    return files


def lora_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA's training tensors from those of the official file."""
    layers = Lora(fresh(torch.device("cpu"))["transformer"], torch.device("cpu")).layers
    result = {}
    for index, name in enumerate(layers):
        for part, letter in (("downs", "A"), ("ups", "B")):
            result[f"lora.{part}.{index}"] = tensors[f"diffusion_model.{name}.lora_{letter}.weight"].float()
    return result


def start(source: Path, folder: Path) -> list[Path]:
    """Write the training files into a folder; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    files = parts_of(load_file(source / f"{NAME}.safetensors"))
    language = load_file(source / "gemma" / "model.safetensors")
    files["gemma"] = {f"gemma.{name.removeprefix(_GEMMA)}": value.float()
                      for name, value in language.items() if name.startswith(_GEMMA)}
    files["upsampler"] = {f"upsampler.{name}": value.float() for name, value in
                          load_file(source / f"{NAME}-spatial-upscaler-x2.safetensors").items()}
    files["lora"] = lora_of(load_file(source / f"{NAME}-distilled-lora.safetensors"))
    written = []
    for name, tensors in files.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            write_tensors(tensors, path)
            written.append(path)
    return written


def main() -> None:
    """Write and say what was written."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train.start", description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "tiny")
    parser.add_argument("--folder", type=Path, default=Path("out/tiny"))
    options = parser.parse_args()
    for path in start(options.source, options.folder):
        print(path)


if __name__ == "__main__":
    main()
