"""Train the vocoder and its bandwidth extension on crops of the world's sound, by plain regression.

The world's waveform is a function of its mel spectrogram (see `sound`): no discriminator, no random phase. Half of the
crops are what the audio VAE makes of the mel.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.train import audio, stereo
from tools.tiny_world.train.common import Run, generator_of, load_part, make, scale
from tools.tiny_world.train.configs import VOCODER
from tools.tiny_world.train.library import upsample_waveform
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.record import Recorder

LEARNING_RATE = 1e-3
WINDOWS = (256, 512, 1024)            # samples, of the spectral losses
FRAMES, EDGE = 32, 4                  # mel frames of a crop; at both ends those whose neighbours are not in it
BLOCK = 32                            # samples that one row of a product filters
PART = "vocoder"
# A log-mel is far from 0 and its values go together: small steps of the first layer move its output far.
SLOW = {r"conv_pre": 0.02, r"conv_post|act_post": 0.2}


def fresh(device: torch.device) -> nn.Module:
    """New weights; residual branches begin small."""
    module = make("vocoder", VOCODER, device, 2)
    audio.fill_constants(module)
    scale(module, {r"convs2.*weight": 0.2, r"conv_pre.weight": 0.2, r"conv_post.weight": 0.05})
    with torch.no_grad():  # the usual log-mel level is taken away by the first layers
        for layer in (module.vocoder.conv_pre, module.bwe_generator.conv_pre):
            layer.bias.copy_(-audio.USUAL_LEVEL * layer.weight.flatten(1).sum(1))
    return module


def load(folder: Path, device: torch.device) -> nn.Module:
    """The trained vocoder, float32."""
    module = fresh(device)
    load_part(folder / "vocoder.safetensors", PART, module)
    return module.requires_grad_(False)


def filter_matrices(taps: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The two filters of an anti-aliased activation as matrices: (block + 10, 2 block) and (2 block + 10, block).

    A depthwise convolution of one filter is slow on a GPU, its gradient more so; a product over blocks of samples is
    fast, though it multiplies by many zeros.
    """
    filters = taps.flatten()
    count, half = len(filters), len(filters) // 2
    up, down = taps.new_zeros(block + count - 2, 2 * block), taps.new_zeros(2 * block + count - 2, block)
    for out in range(2 * block):
        for tap in range(count):  # twice the filter, on samples with zeros between them
            place = out + half - 1 - tap + (count - 2)
            if place % 2 == 0:
                up[place // 2, out] = 2 * filters[tap]
    for out in range(block):
        down[2 * out:2 * out + count, out] = filters
    return up, down


def _filtered(x: Tensor, matrix: Tensor, before: int, after: int, step: int) -> Tensor:
    rows = F.pad(x, (before, after), mode="replicate").unfold(-1, matrix.shape[0], step)
    return (rows @ matrix).flatten(2)


def _activation(module: nn.Module, matrices: dict[int, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """`AntiAliasedSnake.forward` by products, where the length of x is even."""
    if x.shape[-1] % 2:
        return type(module).forward(module, x)
    up, down = matrices[math.gcd(x.shape[-1], BLOCK)]
    reach = (len(up) - up.shape[1] // 2) // 2
    wide = _filtered(x, up, reach, reach, up.shape[1] // 2)
    alpha, beta = module.act.alpha.exp()[:, None], module.act.beta.exp()[:, None]
    wide = wide + torch.sin(wide * alpha).square() / (beta + 1e-9)
    return _filtered(wide, down, reach, reach, 2 * down.shape[1])


def faster(module: nn.Module) -> None:
    """Let a vocoder compute its activations by products; a test holds them to the library's."""
    acts = [part for part in module.modules() if hasattr(part, "downsample")]
    taps = acts[0].upsample.filter
    matrices = {size: filter_matrices(taps, size) for size in (2, 4, 8, 16, BLOCK)}
    for part in acts:
        part.forward = partial(_activation, part, matrices)


def _spectral(made: Tensor, real: Tensor) -> Tensor:
    """Mean distance of magnitudes and of their logarithms over several windows."""
    total = made.new_zeros(())
    for size in WINDOWS:
        window = torch.hann_window(size, device=made.device)
        a, b = (torch.stft(wave.flatten(0, 1), size, size // 4, window=window, return_complex=True, center=False).abs()
                for wave in (made, real))
        total = total + (a - b).abs().mean() / size**0.5 + 0.1 * ((a + 1e-2).log() - (b + 1e-2).log()).abs().mean()
    return total / len(WINDOWS)


def _error(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and mean square of an inner stretch."""
    square = (made - real).square().mean()
    return 10 * square + (made - real).abs().mean() + 0.3 * _spectral(made, real), square


def unclamped_extension(module: nn.Module, waveform: Tensor) -> Tensor:
    """The second stage without its clamp, through which no gradient flows."""
    return module.bwe_generator(module.mel_stft(waveform)) + upsample_waveform(waveform, module.ratio)


def losses(module: nn.Module, mel: Tensor, narrow: Tensor, wide: Tensor) -> dict[str, Tensor]:
    """Losses of both stages on crops; half of the extension's batch hears the true 16 kHz sound.

    Args:
        module: the vocoder.
        mel: (B, 2, FRAMES, 64).
        narrow, wide: (B, 2, samples) at both rates.
    """
    base = module.vocoder(mel.transpose(2, 3))
    half = len(mel) // 2
    full = unclamped_extension(module, torch.cat([narrow[:half], base[half:].detach().clamp(-1, 1)]))
    inner = slice(EDGE, FRAMES - EDGE)
    (base_loss, base_square), (wide_loss, wide_square) = (
        _error(*(wave.unflatten(2, (FRAMES, -1))[:, :, inner].flatten(2) for wave in pair))
        for pair in ((base, narrow), (full, wide)))
    return {"loss": base_loss + wide_loss, "base_mse": base_square, "wide_mse": wide_square}


def crop(mel: Tensor, waves: tuple[Tensor, Tensor], start: int) -> list[Tensor]:
    """FRAMES mel frames of clips from a start on, and their samples; before and after a clip there is silence.

    Args:
        mel: (B, 2, frames, 64).
        waves: (B, 2, samples) each, of as many frames.
        start: may be below 0, and so that the crop ends behind the clip.
    """
    frames = mel.shape[2]
    before, after = max(0, -start), max(0, start + FRAMES - frames)
    parts = [F.pad(mel, (0, 0, before, after))[:, :, start + before:start + before + FRAMES]]
    for wave in waves:
        samples = wave.shape[-1] // frames
        padded = F.pad(wave, (before * samples, after * samples))
        parts.append(padded[..., (start + before) * samples:(start + before + FRAMES) * samples])
    return parts


class Crops:
    """Makes crops with an audio VAE."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.encoder, self.decoder = audio.load(folder, device, torch.float32)
        self.device = device

    @torch.no_grad()
    def of(self, seed: int, number: int, batch: int) -> list[Tensor]:
        """Mel, 16 kHz and 48 kHz of one batch; the mel of its second half comes out of the VAE."""
        scenes = audio.sound_batch(seed, number, batch, audio.LATENTS / 25)
        mel, narrow, wide = audio.sounds(scenes, audio.LATENTS, self.device)
        mean, _ = audio.raw_latent(self.encoder, mel[batch // 2:])
        made = audio.RawDecoder(self.decoder).denormalised(mean + audio.NOISE * torch.randn_like(mean))
        start = int(generator_of(seed, number).integers(0, mel.shape[2] - FRAMES + 1))
        return crop(torch.cat([mel[:batch // 2], made]), (narrow, wide), start)


@torch.no_grad()
def measure(module: nn.Module, crops: Crops, clips: int = 64) -> tuple[float, float]:
    """Signal to error in dB of both rates, all the way: mel, latent, mel, 16 kHz, 48 kHz."""
    mel, narrow, wide = audio.sounds(audio.sound_batch(1 << 20, 0, clips, audio.LATENTS / 25), audio.LATENTS,
                                     crops.device)
    mean, _ = audio.raw_latent(crops.encoder, mel)
    base = module.base_waveform(audio.RawDecoder(crops.decoder).denormalised(mean))
    ratios = [10 * math.log10(float(real.square().mean() / (made - real).square().mean()))
              for made, real in ((base, narrow), (module.extend(base), wide))]
    return ratios[0], ratios[1]


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 16, seed: int = 5,
          steps: int | None = None, rate: float = LEARNING_RATE) -> None:
    """Train, or go on training, until the time is over. Always in float32; the audio VAE stays as it is."""
    run, recorder = Run(folder, "vocoder", minutes, steps), Recorder(device)
    with recorder.running():
        crops, module = Crops(folder, device), fresh(device)
        stereo.prepare(module)
        run.buffers.update({f"{PART}.{name}": (lambda value=value: value) for name, value in module.named_buffers()})
        faster(module)
        optimiser = Optimiser({PART: module}, rate, torch.float32, slow=SLOW)
        resumed = run.resume(optimiser)
        first = seed + 1000 * (1 + resumed)
        optimiser.hold({f"{PART}.{name}": mask for name, mask in stereo.carried(module).items()})
        static = crops.of(first, 0, batch)

        def step() -> dict[str, Tensor]:
            terms = losses(module, *static)
            terms["loss"].backward()
            optimiser.update()
            return terms

        _practise(run, optimiser, partial(recorder.step, "crop", step), partial(crops.of, first, batch=batch), static)
        optimiser.use_mean()
        narrow_ratio, wide_ratio = measure(module, crops)
    print(f"vocoder: signal to error {narrow_ratio:.1f} dB at 16 kHz, {wide_ratio:.1f} dB at 48 kHz", flush=True)


def _practise(run: Run, optimiser: Optimiser, step: Callable[[], dict[str, Tensor]],
              made: Callable[[int], list[Tensor]], static: list[Tensor]) -> None:
    """The steps of a run; each reads the tensors of ``static``, which new crops are copied to."""
    going, number = True, 0
    while going:
        number += 1
        for target, value in zip(static, made(number), strict=True):
            target.copy_(value)
        optimiser.aim(run.done)
        going = run.after(optimiser, step())
