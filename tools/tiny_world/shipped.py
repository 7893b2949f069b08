"""The tiny model's files in the repository, and what it likes."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "tiny"
NAME = "ltx-2.3-tiny-world"
SIZE = (192, 128, 25)      # width, height, frames of the demo


@dataclass(frozen=True)
class Files:
    """The same files as of the real model."""

    folder: Path
    checkpoint: Path
    text_encoder: Path
    upsamplers: tuple[Path, ...]
    distilled_lora: Path


def files(folder: Path = FOLDER) -> Files:
    """The files in a folder."""
    return Files(folder, folder / f"{NAME}.safetensors", folder / "gemma",
                 (folder / f"{NAME}-spatial-upscaler-x2.safetensors",), folder / f"{NAME}-distilled-lora.safetensors")
