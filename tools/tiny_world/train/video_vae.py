"""Train the video VAE: clips of the world through encoder and decoder."""
from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.render import render
from tools.tiny_world.scene import Scenes, sample_scenes
from tools.tiny_world.train.common import Run, ahead, generator_of, load_part, make, scale
from tools.tiny_world.train.configs import FPS, VAE
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.record import Recorder
from tools.tiny_world.train.video_forward import moments, pixels_of

# Width, height, frames and share of the batch size: most clips small, so that more of them fit.
SHAPES = ((192, 128, 25, 1), (128, 128, 17, 2), (128, 64, 25, 3), (256, 128, 17, 1))
LEARNING_RATE, EDGE_WEIGHT = 1e-3, 4.0
NOISE, POWER_WEIGHT = 0.1, 5e-4   # on the latent in training; the price of a large latent
STD_FLOOR = 0.2                   # of the median deviation: channels that say little are not blown up
STATISTICS_CLIPS = 96
PARTS = ("encoder", "decoder")


def clip_batch(seed: int, number: int, count: int, width: int, height: int, frames: int) -> Scenes:
    """The scenes of one batch."""
    return sample_scenes(generator_of(seed, number), count, width / height, frames / FPS)


def pixels(scenes: Scenes, width: int, height: int, frames: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Rendered clips (B, 3, F, H, W) in [-1, 1]."""
    return (render(scenes, frames, FPS, width, height, device) * 2 - 1).to(dtype)


def edges(clip: Tensor) -> Tensor:
    """Weights (B, 1, F, H, W): 1, and more where the picture has an edge within two pixels."""
    grey = clip.float().mean(1)
    steps = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1)) + F.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(),
                                                                         (0, 0, 0, 1))
    wide = F.max_pool2d(steps.flatten(0, 1)[:, None], 5, 1, 2).view(grey.shape)
    return 1 + EDGE_WEIGHT * wide.clamp(max=1)[:, None]


def losses(encoder: nn.Module, decoder: nn.Module, clip: Tensor, only_decoder: bool = False) -> dict[str, Tensor]:
    """Reconstruction through a noisy latent, and how far the latent is from a unit normal."""
    with torch.set_grad_enabled(not only_decoder):
        mean, logvar = moments(encoder, clip)
    noisy = mean + NOISE * torch.randn_like(mean)
    error = (pixels_of(decoder, noisy) - clip).float()
    weight = edges(clip)
    power = mean.float().square().mean()
    said = (logvar.float() - 2 * math.log(NOISE)).square().mean()  # no one reads it; it shall say what the noise was
    loss = (weight * (error.abs() + error.square())).mean() + POWER_WEIGHT * power + 1e-3 * said
    return {"loss": loss, "mse": error.square().mean(), "power": power}


def fresh(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """New encoder and decoder; residual branches begin small, the way through the latent large."""
    encoder, decoder = (make(f"video_{part}", VAE, device, number) for number, part in enumerate(PARTS))
    scale(encoder, {r"conv2.conv.weight": 0.3, r"conv_out.conv.weight": 2.0})
    scale(decoder, {r"conv2.conv.weight": 0.3, r"conv_in.conv.weight": 1.6, r"up_blocks.\d+.conv.conv.weight": 1.5})
    first_biases(encoder, decoder)
    return encoder, decoder


@torch.no_grad()
def first_biases(encoder: nn.Module, decoder: nn.Module) -> None:
    """Biases that training begins with.

    Pixel norm divides the length of a vector away: without an offset, dark and bright greys would be one and the same
    to all that follows.
    """
    generator = torch.Generator().manual_seed(7)
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                width = 0.5 if name.startswith("conv_in") else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * width)
    decoder.conv_out.conv.bias.zero_()


def load(folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The trained "encoder" or "decoder"."""
    module = make(f"video_{part}", VAE, device)
    load_part(folder / "video_vae.safetensors", part, module)
    return module.to(dtype).requires_grad_(False)


@torch.no_grad()
def measure(encoder: nn.Module, decoder: nn.Module, seed: int = 1 << 20, clips: int = STATISTICS_CLIPS,
            chunk: int = 8) -> tuple[Tensor, Tensor, float]:
    """Mean and deviation of each raw latent channel, and the PSNR in dB, on clips that training has not seen."""
    weight = encoder.conv_in.conv.weight
    width, height, frames, _ = SHAPES[0]
    latents, squares, count = [], 0.0, 0
    for number in range(clips // chunk):
        scenes = clip_batch(seed, number, chunk, width, height, frames)
        clip = pixels(scenes, width, height, frames, weight.device, weight.dtype)
        mean, _ = moments(encoder, clip)
        made = pixels_of(decoder, mean).clamp(-1, 1)
        squares += float((made.float() - clip.float()).square().sum())
        count += clip.numel()
        latents.append(mean.float().transpose(0, 1).flatten(1))
    values = torch.cat(latents, 1)
    std = values.std(1)
    return values.mean(1), std.clamp(min=float(std.median()) * STD_FLOOR), 10 * math.log10(4 * count / squares)


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 12, seed: int = 1,
          steps: int | None = None, only_decoder: bool = False) -> None:
    """Train, or go on training, until the time is over.

    Args:
        folder, minutes, device, dtype, batch, seed, steps: as of all components.
        only_decoder: the encoder and the statistics of its latent stay as they are, for others learn from them.
    """
    encoder, decoder = fresh(device)
    statistics = {name: torch.tensor(float(name.startswith("std"))).repeat(VAE["latent_channels"])
                  for name in ("mean-of-means", "std-of-means")}
    run, recorder = Run(folder, "video_vae", minutes, steps), Recorder(device)
    buffers = {f"{part}.per_channel_statistics.{name}": (lambda name=name: statistics[name])
               for part in PARTS for name in statistics}
    if only_decoder:
        load_part(run.path, PARTS[0], encoder)
        statistics = dict(encoder.per_channel_statistics.named_buffers())
        held = {f"{PARTS[0]}.{name}": value.float().cpu() for name, value in encoder.named_parameters()}
        buffers.update({name: (lambda value=value: value) for name, value in held.items()})
        encoder.to(dtype).requires_grad_(False)
    run.buffers.update(buffers)
    with recorder.running():
        optimiser = Optimiser(dict(zip(PARTS, (encoder, decoder), strict=True)), LEARNING_RATE, dtype)
        first = 1000 * (1 + run.resume(optimiser))
        practise(run, optimiser, recorder, Batches(seed + first, batch, device, dtype),
                 lambda clip: losses(encoder, decoder, clip, only_decoder))
        optimiser.use_mean()
        mean, std, psnr = measure(encoder, decoder)
    if not only_decoder:
        statistics["mean-of-means"], statistics["std-of-means"] = mean, std
    run.save(optimiser)
    print(f"video_vae: PSNR {psnr:.2f} dB, latent deviation {std.min():.3f} … {std.max():.3f}", flush=True)


class Batches:
    """Rendered clips of the shapes in turn, in tensors that stay where they are."""

    def __init__(self, seed: int, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        self.clips = [torch.zeros(batch * times, 3, frames, height, width, device=device, dtype=dtype)
                      for width, height, frames, times in SHAPES]
        self._seed = seed

    def scenes(self, number: int) -> tuple[Scenes, int]:
        """The scenes of a batch, and which of the shapes it has."""
        kind = number % len(SHAPES)
        clip = self.clips[kind]
        count, _, frames, height, width = clip.shape
        return clip_batch(self._seed, number, count, width, height, frames), kind


def practise(run: Run, optimiser: Optimiser, recorder: Recorder, batches: Batches,
             losses_of: Callable[[Tensor], dict[str, Tensor]]) -> None:
    """The steps of a run."""
    for scenes, kind in ahead(batches.scenes):
        clip = batches.clips[kind]
        clip.copy_(pixels(scenes, *SHAPES[kind][:3], clip.device, clip.dtype))

        def step(clip: Tensor = clip) -> dict[str, Tensor]:
            terms = losses_of(clip)
            terms["loss"].backward()
            optimiser.update()
            return terms

        optimiser.aim(run.done)
        terms = recorder.step(kind, step)
        if not run.after(optimiser, {"loss": terms["loss"], f"mse{kind}": terms["mse"], "power": terms["power"]}):
            break
