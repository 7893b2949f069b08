"""Train the audio VAE on mel spectrograms of the world's sound."""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.scene import Scenes, sample_scenes
from tools.tiny_world.sound import render_sound
from tools.tiny_world.train.common import Run, ahead, generator_of, load_part, make, scale
from tools.tiny_world.train.configs import AUDIO_VAE, VOCODER
from tools.tiny_world.train.library import AudioVAEConfig, log_mel, mel_filterbank
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.record import Recorder

LATENTS = 26                          # of a training clip: 1.04 s
LEARNING_RATE = 1e-3
NOISE, POWER_WEIGHT = 0.1, 1e-3         # as of the video VAE
STD_FLOOR = 0.2
USUAL_LEVEL = -8.0                    # of a log-mel
FILE = "audio_vae"
PARTS = ("encoder", "decoder")
NARROW, WIDE, FRAMES_PER_LATENT = 16000, 48000, 4
_FILTERS = "filter"


def mel_count(latents: int) -> int:
    """Mel frames that ``latents`` decode to (spec/05 §6)."""
    return FRAMES_PER_LATENT * latents - 3


def kaiser_filter(taps: int = 12, cutoff: float = 0.25, half_width: float = 0.3) -> Tensor:
    """The low-pass of the anti-aliased activations: a Kaiser-windowed sinc of unit sum (spec/05 §4): (taps,)."""
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (
        attenuation - 21)
    time = np.arange(taps) - taps / 2 + 0.5
    kernel = 2 * cutoff * np.kaiser(taps, beta) * np.sinc(2 * cutoff * time)
    return torch.from_numpy((kernel / kernel.sum()).astype(np.float32))


def fill_constants(vocoder: nn.Module) -> None:
    """Fill the buffers that checkpoints carry: filters, Fourier bases and the mel matrix of the extension."""
    bwe = VOCODER["bwe"]
    size = bwe["n_fft"]
    for name, buffer in vocoder.named_buffers():
        if name.endswith(_FILTERS):
            buffer.copy_(kaiser_filter().view(1, 1, -1))
    waves = np.fft.fft(np.eye(size))[: size // 2 + 1]
    window = np.hanning(size + 1)[:-1]
    basis = np.concatenate([waves.real, waves.imag]) * window
    forward = torch.from_numpy(basis.astype(np.float32))[:, None]
    vocoder.mel_stft.stft_fn.forward_basis.copy_(forward)
    vocoder.mel_stft.stft_fn.inverse_basis.copy_(forward / size)  # carried by the files, used by nobody
    rate = bwe["input_sampling_rate"]
    vocoder.mel_stft.mel_basis.copy_(mel_filterbank(bwe["num_mels"], size, rate, 0, rate / 2))


def sound_batch(seed: int, number: int, count: int, seconds: float) -> Scenes:
    """The scenes of one batch, of varying aspect so that every place is heard."""
    return sample_scenes(generator_of(seed, number), count, 1.5, seconds)


def sounds(scenes: Scenes, latents: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Mel (B, 2, 4T - 3, 64), wave at 16 kHz and at 48 kHz (B, 2, samples) of scenes; float32."""
    frames = mel_count(latents)
    narrow, wide = (render_sound(scenes, frames, rate, device) for rate in (NARROW, WIDE))
    config = AudioVAEConfig.from_dict(AUDIO_VAE)
    return log_mel(narrow[..., :(frames - 1) * config.hop_length], config), narrow, wide


def raw_latent(encoder: nn.Module, mel: Tensor) -> tuple[Tensor, Tensor]:
    """Un-normalised means and log-variances (B, 8, T, 16) of a mel."""
    h = encoder.conv_in(mel)
    for stage in encoder.down:
        for block in stage["block"]:
            h = block(h)
        if "downsample" in stage:
            h = stage["downsample"](h)
    h = encoder.mid["block_2"](encoder.mid["block_1"](h))
    norm = h / torch.sqrt(h.square().mean(1, keepdim=True) + 1e-6)
    return encoder.conv_out(F.silu(norm)).chunk(2, dim=1)


def losses(encoder: nn.Module, decoder: RawDecoder, mel: Tensor) -> dict[str, Tensor]:
    """Reconstruction of a mel through a noisy latent, and how far the latent is from a unit normal."""
    mean, logvar = raw_latent(encoder, mel)
    made = decoder.denormalised(mean + NOISE * torch.randn_like(mean))
    power = mean.square().mean()
    said = (logvar - 2 * math.log(NOISE)).square().mean()  # no one reads it; it shall say what the noise was
    error = (made - mel).abs().mean()
    return {"loss": error + POWER_WEIGHT * power + 1e-3 * said, "mel": error, "power": power}


class RawDecoder:
    """The audio decoder on un-normalised latents."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder

    def denormalised(self, latent: Tensor) -> Tensor:
        """Raw latent (B, 8, T, 16) -> mel (B, 2, 4T - 3, 64)."""
        return self._decoder(self._decoder.per_channel_statistics.normalize(latent))


def fresh(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """New encoder and decoder.

    They begin with biases that take the usual log-mel level away at the first layer and put it back at the last, and
    with offsets in between: pixel norm needs them to tell loud from quiet.
    """
    encoder, decoder = (make(f"audio_{part}", AUDIO_VAE, device, number) for number, part in enumerate(PARTS))
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        encoder.conv_in.conv.bias.copy_(-USUAL_LEVEL * encoder.conv_in.conv.weight.flatten(1).sum(1))
        decoder.conv_out.conv.bias.fill_(USUAL_LEVEL)
        for module in (encoder, decoder):
            scale(module, {r"conv2.conv.weight": 0.3})
            for name, parameter in module.named_parameters():
                if name.endswith("bias") and "conv_out" not in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.3)
    return encoder, decoder


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Trained encoder and decoder."""
    made = fresh(device)
    for part, module in zip(PARTS, made, strict=True):
        load_part(folder / f"{FILE}.safetensors", part, module)
        module.to(dtype).requires_grad_(False)
    return made


@torch.no_grad()
def measure(encoder: nn.Module, decoder: nn.Module, clips: int = 256) -> tuple[Tensor, Tensor, float]:
    """Mean and deviation of each value of a latent token (128), and the mean error of the log-mel."""
    device = next(encoder.parameters()).device
    mel, _, _ = sounds(sound_batch(1 << 20, 0, clips, LATENTS / 25), LATENTS, device)
    mean, _ = raw_latent(encoder, mel)
    error = float((RawDecoder(decoder).denormalised(mean) - mel).abs().mean())
    values = mean.transpose(1, 2).flatten(2).flatten(0, 1)  # tokens, channel * 16 + bin
    std = values.std(0)
    return values.mean(0), std.clamp(min=float(std.median()) * STD_FLOOR), error


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 32, seed: int = 2,
          steps: int | None = None) -> None:
    """Train the audio VAE, or go on training, until the time is over. Always in float32."""
    statistics = {name: torch.tensor(float(name.startswith("std"))).repeat(128)
                  for name in ("mean-of-means", "std-of-means")}
    buffers = {f"{part}.per_channel_statistics.{name}": (lambda name=name: statistics[name])
               for part in PARTS for name in statistics}
    run, recorder = Run(folder, FILE, minutes, steps, buffers), Recorder(device)
    with recorder.running():
        encoder, decoder = fresh(device)
        optimiser = Optimiser({"encoder": encoder, "decoder": decoder}, LEARNING_RATE, torch.float32)
        first = 1000 * (1 + run.resume(optimiser))
        raw, static = RawDecoder(decoder), sounds(sound_batch(seed, 0, batch, LATENTS / 25), LATENTS, device)[0]

        def step() -> dict[str, Tensor]:
            terms = losses(encoder, raw, static)
            terms["loss"].backward()
            optimiser.update()
            return terms

        for scenes in ahead(lambda number: sound_batch(seed + first, number, batch, LATENTS / 25)):
            static.copy_(sounds(scenes, LATENTS, device)[0])
            optimiser.aim(run.done)
            if not run.after(optimiser, recorder.step("clip", step)):
                break
        optimiser.use_mean()
        statistics["mean-of-means"], statistics["std-of-means"], error = measure(encoder, decoder)
        run.save(optimiser)
    print(f"audio: mean error of the log-mel {error:.3f}", flush=True)
