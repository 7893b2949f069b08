"""Go on training the vocoder and its bandwidth extension alone; the audio VAE and its latents stay as they are."""
from __future__ import annotations

from pathlib import Path

import torch

from tools.tiny_world.train import audio


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 32, seed: int = 5,
          steps: int | None = None) -> None:
    """As `audio.train` from audio.safetensors, with its VAE frozen."""
    audio.train(folder, minutes, device, dtype, batch, seed, steps, only_vocoder=True)
