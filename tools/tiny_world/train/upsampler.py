"""Train the spatial upscaler: the latent of a small rendering to that of one twice as large."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tools.tiny_world.scene import Scenes, sample_scenes
from tools.tiny_world.train import video_vae
from tools.tiny_world.train.common import Run, ahead, generator_of, make, scale
from tools.tiny_world.train.configs import FPS, UPSAMPLER
from tools.tiny_world.train.optimiser import Optimiser

LEARNING_RATE = 1e-3
SHAPES = ((96, 64, 25), (128, 64, 25), (64, 64, 25))   # of the small rendering


def fresh(device: torch.device) -> nn.Module:
    """New weights; the residual branches begin small."""
    module = make("upsampler_x2", UPSAMPLER, device)
    scale(module, {r"final_conv.weight": 0.3})
    return module


def pair(encoder: nn.Module, scenes: Scenes, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Normalised latents (B, 128, F', h, w) of the small and of the large rendering."""
    weight = encoder.conv_in.conv.weight
    width, height, frames = shape
    clips = [video_vae.pixels(scenes, width * times, height * times, frames, weight.device, weight.dtype)
             for times in (1, 2)]
    return encoder(clips[0]), encoder(clips[1])


def loss_of(module: nn.Module, encoder: nn.Module, small: Tensor, large: Tensor) -> Tensor:
    """Mean squared error in the normalised space; the network itself works on raw latents (spec/06)."""
    statistics = encoder.per_channel_statistics
    made = statistics.normalize(module(statistics.unnormalize(small)))
    return (made.float() - large.float()).square().mean()


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 24, seed: int = 6,
          steps: int | None = None) -> None:
    """Train, or go on training, until the time is over."""
    encoder = video_vae.load(folder, "encoder", device, dtype)
    module = fresh(device)
    run = Run(folder, "upsampler", minutes, steps)
    optimiser = Optimiser({"upsampler": module}, LEARNING_RATE, dtype)
    first = 1000 * (1 + run.resume(optimiser))

    def batch_of(number: int) -> tuple[Scenes, tuple[int, int, int]]:
        shape = SHAPES[number % len(SHAPES)]
        return sample_scenes(generator_of(seed + first, number), batch, shape[0] / shape[1], shape[2] / FPS), shape

    for scenes, shape in ahead(batch_of):
        with torch.no_grad():
            small, large = pair(encoder, scenes, shape)
        loss = loss_of(module, encoder, small, large)
        loss.backward()
        optimiser.step(run.done)
        if not run.after(optimiser, {"loss": loss}):
            break
