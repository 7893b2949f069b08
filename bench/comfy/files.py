"""The model folders of the server: random weights in the true shapes of the 22B model, or the tests' tiny model."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.generate_weights import GEMMA_12B, manifest_22b, packed_layout, write, write_gemma
from tools.host import Base, ComfyUI, clean_environment

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "goldens" / "tiny"
LAYOUTS = Path(__file__).with_name("core_layouts.py")


@dataclass(frozen=True)
class Models:
    """What the graphs name.

    Attributes:
        base: the server's folders.
        dev, distilled: checkpoints.
        core: the core model: "sdxl" (6.9 GB) or "sd15" (2.1 GB).
        width, height, frames, steps: of an ordinary run.
        sizes: (width, height, frames) of runs of alternating sizes.
        image, image_steps: pixels of the core model's square picture, and its steps.
    """

    base: Base
    dev: str
    distilled: str
    core: str
    width: int
    height: int
    frames: int
    steps: int
    sizes: tuple[tuple[int, int, int], ...]
    image: int
    image_steps: int


def environment() -> dict[str, str]:
    """Where this process has its packages from, the server has too."""
    path = os.environ.get("PYTHONPATH")
    return {} if path is None else {"PYTHONPATH": path}


def write_core(name: str, base: Base, comfy: ComfyUI, device: torch.device) -> float:
    """Files of a core model with random weights; returns their GB."""
    done = subprocess.run([str(comfy.python), str(LAYOUTS), name], check=True, capture_output=True, text=True,
                          cwd=comfy.source, env=clean_environment(environment()))
    size = 0
    for file, layout in json.loads(done.stdout.splitlines()[-1]).items():
        shapes = {key: (dtype, tuple(shape)) for key, (dtype, shape) in layout.items()}
        size += write(base.models / file, shapes, None, device)
    return size / 1e9


def full(base: Base, comfy: ComfyUI, device: torch.device, distilled: bool = True) -> Models:
    """77 GB: dev in bf16, Gemma 12B, SDXL; and 27 GB: distilled with a transformer in fp8."""
    tensors, metadata = manifest_22b()
    checkpoints = base.models / "checkpoints"
    write(checkpoints / "ltx-2.3-22b-dev.safetensors", tensors, metadata, device)
    if distilled:
        write(checkpoints / "ltx-2.3-22b-distilled-fp8.safetensors", packed_layout(tensors), metadata, device)
    write_gemma(base.models / "text_encoders" / "gemma", GEMMA_12B, device)
    write_core("sdxl", base, comfy, device)
    return Models(base, "ltx-2.3-22b-dev.safetensors", "ltx-2.3-22b-distilled-fp8.safetensors", "sdxl", width=768,
                  height=512, frames=121, steps=4, image=1024, image_steps=4,
                  sizes=((768, 512, 121), (384, 256, 25), (512, 768, 49), (640, 352, 49)))


def tiny(base: Base, comfy: ComfyUI, device: torch.device, distilled: bool = True) -> Models:
    """The tests' model under both names, and SD 1.5 as the core's: for a proof on a CPU."""
    for name in ("dev", "distilled")[:1 + distilled]:
        target = base.models / "checkpoints" / f"ltx-2.3-tiny-{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TINY / "ltx-2.3-tiny.safetensors", target)
    base.add_model("text_encoders", TINY / "gemma")
    write_core("sd15", base, comfy, device)
    return Models(base, "ltx-2.3-tiny-dev.safetensors", "ltx-2.3-tiny-distilled.safetensors", "sd15", width=96,
                  height=64, frames=17, steps=3, image=64, image_steps=1, sizes=((96, 64, 17), (64, 64, 9)))
