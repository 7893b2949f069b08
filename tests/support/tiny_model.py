"""The tiny model of the golden data as a user would have it: own folder, own process."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.goldens.harness import CHECKPOINT, GEMMA, companion
from tools.host import Base

ROOT = Path(__file__).parents[2]
# What the golden model consists of -> folder of ComfyUI's models.
GOLDEN_MODEL = {"ltx-2.3-tiny.safetensors": "checkpoints", "gemma": "text_encoders",
                "ltx-2.3-tiny-spatial-upscaler-x2.safetensors": "latent_upscale_models",
                "ltx-2.3-tiny-spatial-upscaler-x1.5.safetensors": "latent_upscale_models",
                "ltx-2.3-tiny-temporal-upscaler-x2.safetensors": "latent_upscale_models",
                "ltx-2.3-tiny-distilled-lora.safetensors": "loras"}


def add_golden_model(base: Base) -> dict[str, Path]:
    """Put the tiny model of random weights where a user puts the real one; name of each file or folder -> its path."""
    return {name: base.add_model(folder, ROOT / "tests" / "goldens" / "tiny" / name)
            for name, folder in GOLDEN_MODEL.items()}


def copy_model(folder: Path) -> tuple[Path, Path]:
    """Copy checkpoint and text encoder, since an overlay is written beside the checkpoint -> their paths."""
    shutil.copytree(GEMMA, folder / "gemma")
    return Path(shutil.copy(CHECKPOINT, folder)), folder / "gemma"


def copy_companion(suffix: str, folder: Path) -> Path:
    """Copy a file that goes with the checkpoint."""
    return Path(shutil.copy(companion(suffix), folder))


def environment() -> dict[str, str]:
    """The library findable from any folder; one thread, since tensors this small only wait for each other."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1"}


def run(command: list[str], folder: Path, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and wait for it."""
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=seconds)
