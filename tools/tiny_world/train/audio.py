"""Train the audio VAE, the vocoder and its bandwidth extension on the world's sound, all in one run.

The world's waveform is a function of its mel spectrogram (see `sound`), so the vocoder learns by plain regression:
no discriminator, no random phase.
"""
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.scene import Scenes, sample_scenes
from tools.tiny_world.sound import render_sound
from tools.tiny_world.train.common import Optimiser, Run, ahead, generator_of, load_part, make, scale
from tools.tiny_world.train.configs import AUDIO_VAE, VOCODER
from tools.tiny_world.train.library import AudioVAEConfig, log_mel, mel_filterbank, upsample_waveform

LATENTS = 26                          # of a training clip: 1.04 s
LEARNING_RATE = 1e-3
NOISE, POWER_WEIGHT = 0.1, 1e-3         # as of the video VAE
WINDOWS = (256, 512, 1024)            # samples at 16 kHz, of the spectral losses
STD_FLOOR = 0.2
USUAL_LEVEL = -8.0                    # of a log-mel
PARTS = ("encoder", "decoder", "vocoder")
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


def _spectral(made: Tensor, real: Tensor) -> Tensor:
    """Mean distance of magnitudes and of their logarithms over several windows."""
    total = made.new_zeros(())
    for size in WINDOWS:
        window = torch.hann_window(size, device=made.device)
        a, b = (torch.stft(wave.flatten(0, 1), size, size // 4, window=window, return_complex=True).abs()
                for wave in (made, real))
        total = total + (a - b).abs().mean() / size**0.5 + 0.1 * ((a + 1e-2).log() - (b + 1e-2).log()).abs().mean()
    return total / len(WINDOWS)


def losses(encoder: nn.Module, decoder: nn.Module, vocoder: nn.Module, mel: Tensor, narrow: Tensor,
           wide: Tensor) -> dict[str, Tensor]:
    """Losses of all three parts; each gets true inputs, half of the vocoder's batch the decoder's mel."""
    mean, logvar = raw_latent(encoder, mel)
    made = decoder.denormalised(mean + NOISE * torch.randn_like(mean))
    power = mean.square().mean()
    said = (logvar - 2 * math.log(NOISE)).square().mean()  # no one reads it; it shall say what the noise was
    mel_error = (made - mel).abs().mean()
    half = len(mel) // 2
    given = torch.cat([mel[:half], made[half:].detach()])
    base = vocoder.vocoder(given.transpose(2, 3))
    base_error = 10 * (base - narrow).square().mean() + (base - narrow).abs().mean() + 0.3 * _spectral(base, narrow)
    source = torch.cat([narrow[:half], base[half:].detach().clamp(-1, 1)])
    full = unclamped_extension(vocoder, source)
    wide_error = 10 * (full - wide).square().mean() + (full - wide).abs().mean() + 0.3 * _spectral(full, wide)
    loss = mel_error + POWER_WEIGHT * power + 1e-3 * said + 5 * base_error + 5 * wide_error
    return {"loss": loss, "mel": mel_error, "power": power, "base_mse": (base - narrow).square().mean(),
            "wide_mse": (full - wide).square().mean(), "level": wide.square().mean()}


def unclamped_extension(vocoder: nn.Module, waveform: Tensor) -> Tensor:
    """The second stage without its clamp, through which no gradient flows."""
    return vocoder.bwe_generator(vocoder.mel_stft(waveform)) + upsample_waveform(waveform, vocoder.ratio)


class RawDecoder:
    """The audio decoder on un-normalised latents."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder

    def denormalised(self, latent: Tensor) -> Tensor:
        """Raw latent (B, 8, T, 16) -> mel (B, 2, 4T - 3, 64)."""
        return self._decoder(self._decoder.per_channel_statistics.normalize(latent))


def modules_of(device: torch.device) -> list[nn.Module]:
    """Fresh encoder, decoder and vocoder."""
    made = [make(name, config, device, number) for number, (name, config) in enumerate(
        (("audio_encoder", AUDIO_VAE), ("audio_decoder", AUDIO_VAE), ("vocoder", VOCODER)))]
    fill_constants(made[2])
    scale(made[2], {r"convs2.*weight": 0.2, r"conv_pre.weight": 0.2, r"conv_post.weight": 0.05})
    for part in made[:2]:
        scale(part, {r"conv2.conv.weight": 0.3})
    centre_inputs(made)
    return made


@torch.no_grad()
def centre_inputs(modules: list[nn.Module]) -> None:
    """Begin with biases that take the usual log-mel level away from the first layers, and put it back at the last."""
    encoder, decoder, vocoder = modules
    firsts = (encoder.conv_in.conv, vocoder.vocoder.conv_pre, vocoder.bwe_generator.conv_pre)
    for layer in firsts:
        layer.bias.copy_(-USUAL_LEVEL * layer.weight.flatten(1).sum(1))
    decoder.conv_out.conv.bias.fill_(USUAL_LEVEL)
    generator = torch.Generator().manual_seed(8)
    for module in (encoder, decoder):  # pixel norm needs offsets to tell loud from quiet
        for name, parameter in module.named_parameters():
            if name.endswith("bias") and "conv_out" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.3)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Trained encoder, decoder and vocoder; the vocoder stays float32."""
    made = modules_of(device)
    for part, module in zip(PARTS, made, strict=True):
        load_part(folder / "audio.safetensors", part, module)
        module.requires_grad_(False)
    return [made[0].to(dtype), made[1].to(dtype), made[2]]


@torch.no_grad()
def measure(modules: list[nn.Module], clips: int = 256) -> tuple[Tensor, Tensor, float, float]:
    """Mean and deviation of each value of a latent token (128), and the signal to error ratio in dB of both rates.

    The sound goes the whole way: mel, latent, mel, 16 kHz, 48 kHz.
    """
    encoder, decoder, vocoder = modules
    device = next(encoder.parameters()).device
    scenes = sound_batch(1 << 20, 0, clips, LATENTS / 25)
    mel, narrow, wide = sounds(scenes, LATENTS, device)
    mean, _ = raw_latent(encoder, mel)
    base = vocoder.base_waveform(RawDecoder(decoder).denormalised(mean))
    ratios = [10 * math.log10(float(real.square().mean() / (made - real).square().mean()))
              for made, real in ((base, narrow), (vocoder.extend(base), wide))]
    values = mean.transpose(1, 2).flatten(2).flatten(0, 1)  # tokens, channel * 16 + bin
    std = values.std(0)
    return values.mean(0), std.clamp(min=float(std.median()) * STD_FLOOR), *ratios


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 32, seed: int = 2,
          steps: int | None = None, only_vocoder: bool = False) -> None:
    """Train, or go on training, until the time is over. Always in float32."""
    encoder, decoder, vocoder = modules_of(device)
    if only_vocoder:
        encoder.requires_grad_(False)
        decoder.requires_grad_(False)
    statistics = {name: torch.tensor(float(name.startswith("std"))).repeat(128)
                  for name in ("mean-of-means", "std-of-means")}
    buffers = {f"{part}.per_channel_statistics.{name}": (lambda name=name: statistics[name])
               for part in PARTS[:2] for name in statistics}
    buffers.update({f"vocoder.{name}": (lambda value=value: value) for name, value in vocoder.named_buffers()})
    run = Run(folder, "audio", minutes, steps, buffers)
    if only_vocoder:  # the frozen parameters are not the optimiser's: read here, written as buffers
        for part, module in zip(PARTS[:2], (encoder, decoder), strict=True):
            load_part(run.path, part, module)
            held = module.state_dict().items()
            buffers.update({f"{part}.{name}": (lambda value=value: value) for name, value in held})
    optimiser = Optimiser({"encoder": encoder, "decoder": decoder, "vocoder": vocoder}, LEARNING_RATE, torch.float32)
    first = 1000 * (1 + run.resume(optimiser))
    raw = RawDecoder(decoder)
    for scenes in ahead(lambda number: sound_batch(seed + first, number, batch, LATENTS / 25)):
        terms = losses(encoder, raw, vocoder, *sounds(scenes, LATENTS, device))
        terms["loss"].backward()
        optimiser.step(run.done)
        if not run.after(optimiser, terms):
            break
    with torch.no_grad():
        for p, mean in zip(optimiser.parameters, optimiser.mean, strict=True):
            p.copy_(mean)
    mean, std, narrow_ratio, wide_ratio = measure([encoder, decoder, vocoder])
    statistics["mean-of-means"], statistics["std-of-means"] = mean, std
    run.save(optimiser)
    print(f"audio: signal to error {narrow_ratio:.1f} dB at 16 kHz, {wide_ratio:.1f} dB at 48 kHz", flush=True)
