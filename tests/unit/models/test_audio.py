"""Audio VAE, mel front end, vocoder and latent upsamplers: properties that hold for any weights."""
from __future__ import annotations

import copy
import gzip
import json
import math
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ltx23_core.config import AudioVAEConfig
from ltx23_core.errors import MediaError, OverlayError
from ltx23_core.models.audio import mel as melspec
from ltx23_core.models.audio.activation import AntiAliasedSnake
from ltx23_core.models.audio.vocoder import upsample_waveform
from ltx23_core.models.latent_upsampler import LatentUpsampler, upsample
from ltx23_core.models.registry import build
from ltx23_core.ops.resample import resample, resampled_length
from ltx23_core.sampling.state import fit_latent_length

MANIFEST_FILE = Path(__file__).parents[2] / "goldens" / "manifest-22b-dev.json.gz"
MANIFEST = json.loads(gzip.decompress(MANIFEST_FILE.read_bytes()))
CONFIG = MANIFEST["metadata"]["config"]
AUDIO = AudioVAEConfig.from_dict(CONFIG["audio_vae"])


def small_audio() -> dict:
    """An audio VAE with other widths and one block a level."""
    config = copy.deepcopy(CONFIG["audio_vae"])
    config["model"]["params"]["ddconfig"] |= {"ch": 6, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "z_channels": 3}
    return config


def small_vocoder() -> dict:
    """A vocoder with other widths, one kind of block and one dilation fewer."""
    config = copy.deepcopy(CONFIG["vocoder"])
    for part, width in (("vocoder", 64), ("bwe", 32)):
        config[part] |= {"upsample_initial_channel": width, "resblock_kernel_sizes": [3, 5],
                         "resblock_dilation_sizes": [[1, 3], [1, 3]]}
    return config


def filled(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """The module on the CPU with random values."""
    generator = torch.Generator().manual_seed(1)
    module = module.to_empty(device="cpu")
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        value = torch.randn(tensor.shape, generator=generator) * scale
        tensor.data.copy_(value.abs() + 0.5 if name.endswith("std-of-means") else value)
    return module


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("component", "part", "prefixes"), [
    ("audio_encoder", "audio_vae", {"audio_vae.encoder.": "", "audio_vae.per_channel": "per_channel"}),
    ("audio_decoder", "audio_vae", {"audio_vae.decoder.": "", "audio_vae.per_channel": "per_channel"}),
    ("vocoder", "vocoder", {"vocoder.": ""}),
])
def test_22b_names_and_shapes(component: str, part: str, prefixes: dict[str, str]) -> None:
    want = {new + name[len(old):]: tuple(spec[1:]) for name, spec in MANIFEST["tensors"].items()
            for old, new in prefixes.items() if name.startswith(old)}
    built = build(component, CONFIG[part])
    assert shapes(built) == want
    assert all(tensor.is_meta for tensor in built.state_dict().values())


@pytest.mark.parametrize("file", list(MANIFEST["upscalers"]))
def test_22b_upsampler_names_and_shapes(file: str) -> None:
    entry = MANIFEST["upscalers"][file]
    built = build("upsampler_x2", entry["metadata_config"])
    assert shapes(built) == {name: tuple(spec[1:]) for name, spec in entry["tensors"].items()}


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 13, 126])
@torch.no_grad()
def test_vae_lengths(frames: int) -> None:
    decoder, encoder = (filled(build(name, small_audio())) for name in ("audio_decoder", "audio_encoder"))
    mel = decoder(torch.randn(2, 3, frames, 16))
    assert mel.shape == (2, 2, 4 * frames - 3, 64)
    assert encoder(mel).shape == (2, 3, frames, 16)
    for extra in range(1, 4):
        longer = F.pad(mel, (0, 0, 0, extra))
        assert encoder(longer).shape[2] == math.ceil(longer.shape[2] / 4)


@torch.no_grad()
def test_vae_is_causal_in_time() -> None:
    decoder, encoder = (filled(build(name, small_audio())) for name in ("audio_decoder", "audio_encoder"))
    latent = torch.randn(1, 3, 6, 16)
    changed = latent.clone()
    changed[:, :, 5] += 1
    before, after = decoder(latent), decoder(changed)
    assert torch.equal(before[:, :, :17], after[:, :, :17])  # five latents make 4 * 5 - 3 frames
    assert not torch.equal(before, after)
    mel = torch.randn(1, 2, 21, 64)
    assert torch.allclose(encoder(mel)[:, :, :5], encoder(mel[:, :, :17]), atol=1e-6)


@torch.no_grad()
def test_vae_statistics_invert() -> None:
    statistics = filled(build("audio_decoder", small_audio())).per_channel_statistics
    latent = torch.randn(1, 3, 4, 16)
    assert torch.allclose(statistics.normalize(statistics.denormalize(latent)), latent, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 7])
@torch.no_grad()
def test_vocoder_range_and_length(frames: int) -> None:
    vocoder = filled(build("vocoder", small_vocoder()))
    waveform = vocoder(30 * torch.randn(2, 2, frames, 64))
    assert waveform.shape == (2, 2, 480 * frames) and vocoder.output_rate == 48000
    assert waveform.isfinite().all() and waveform.abs().max() <= 1
    assert vocoder.base_waveform(torch.randn(2, 2, frames, 64)).shape == (2, 2, 160 * frames)


@torch.no_grad()
def test_vocoder_always_computes_in_float32() -> None:
    rounded = filled(build("vocoder", small_vocoder())).bfloat16()
    mel = torch.randn(1, 2, 3, 64).bfloat16()
    got = rounded(mel)
    assert rounded.vocoder.conv_pre.weight.dtype == torch.bfloat16  # left as it was
    assert got.dtype == torch.float32
    assert torch.equal(got, copy.deepcopy(rounded).float()(mel.float()))


@pytest.mark.parametrize("length", [1, 2, 37])
@torch.no_grad()
def test_anti_aliased_activation_sample_by_sample(length: int) -> None:
    """Against sums written out; random filters, as the symmetric ones of the files would hide a flip."""
    module = filled(AntiAliasedSnake(1), 1.0)
    x = torch.randn(length)
    up, down = module.upsample.filter[0, 0], module.downsample.lowpass.filter[0, 0]

    def held(signal: torch.Tensor, index: int) -> torch.Tensor:
        return signal[min(max(index, 0), len(signal) - 1)]

    wide = torch.stack([2 * sum(up[k] * held(x, (n + 5 - k) // 2) for k in range(12) if (n + 5 - k) % 2 == 0)
                        for n in range(2 * length)])
    wide = wide + torch.sin(module.act.alpha.exp() * wide) ** 2 / (module.act.beta.exp() + 1e-9)
    want = torch.stack([sum(down[k] * held(wide, 2 * n + k - 5) for k in range(12)) for n in range(length)])
    assert torch.allclose(module(x.view(1, 1, -1))[0, 0], want, rtol=1e-4, atol=1e-5)
    both = module(torch.stack([x, -x]).view(2, 1, -1))
    assert torch.allclose(both[0, 0], want, rtol=1e-4, atol=1e-5)


def test_waveform_upsampling_is_the_default_resampler() -> None:
    waveform = torch.randn(2, 2, 400)
    got, want = upsample_waveform(waveform, 3), resample(waveform, 16000, 48000)
    assert got.shape == want.shape == (2, 2, 1200)
    assert torch.allclose(got[..., 30:-30], want[..., 30:-30], atol=1e-5)  # the ends are continued in another way


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 37777, 44100, 47999, 48000, 96000, 192001])
def test_resample_keeps_a_tone(rate: int) -> None:
    tone = torch.sin(2 * math.pi * 440 * torch.arange(rate // 2) / rate)[None, None]
    got = resample(tone, rate, 16000)
    want = torch.sin(2 * math.pi * 440 * torch.arange(got.shape[-1]) / 16000)
    assert got.shape[-1] == resampled_length(rate // 2, rate, 16000)
    assert (got[0, 0, 200:-200] - want[200:-200]).abs().max() < 5e-3


def test_resample_same_rate() -> None:
    waveform = torch.randn(1, 2, 100)
    assert resample(waveform, 16000, 16000) is waveform


def test_against_torchaudio() -> None:
    try:
        import torchaudio.functional as oracle
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not import here: {error}")
    waveform = torch.randn(2, 3000)
    for rate in (22050, 44100, 48000):
        want = oracle.resample(waveform, rate, 16000)
        assert torch.allclose(resample(waveform, rate, 16000), want, atol=1e-4)
    bank = oracle.melscale_fbanks(513, 0.0, 8000.0, 64, 16000, norm="slaney", mel_scale="slaney").T
    assert torch.allclose(melspec.mel_filterbank(64, 1024, 16000, 0.0, 8000.0), bank, atol=1e-5 * bank.max().item())


def test_mel_filterbank_peaks_rise_and_areas_are_one() -> None:
    bank = melspec.mel_filterbank(64, 1024, 16000, 0, 8000)
    assert bank.shape == (64, 513) and (bank >= 0).all()
    peaks = bank.argmax(dim=1)
    assert (peaks.diff() > 0).all()
    areas = bank[20:].sum(dim=1) * 16000 / 1024  # the narrow filters below are sampled too coarsely for this
    assert (areas - 1).abs().max() < 0.05


@pytest.mark.parametrize("samples", [513, 640, 1600, 16001])
def test_mel_of_mono_and_stereo(samples: int) -> None:
    mono = 0.1 * torch.randn(1, 1, samples)
    mel = melspec.waveform_to_mel(mono, 16000, AUDIO)
    assert mel.shape == (1, 2, melspec.mel_frames(samples, AUDIO), 64)
    assert torch.equal(mel[:, 0], mel[:, 1])
    assert torch.allclose(mel, melspec.waveform_to_mel(mono.expand(1, 2, -1).contiguous(), 16000, AUDIO))
    assert melspec.audio_latent_frames(samples, AUDIO) == math.ceil(mel.shape[2] / 4)
    silence = melspec.waveform_to_mel(torch.zeros(1, 2, samples), 16000, AUDIO)
    assert torch.allclose(silence, torch.tensor(math.log(1e-5)))


@pytest.mark.parametrize("shape", [(1, 6, 2000), (2, 2000), (1, 2, 512)])
def test_waveforms_that_cannot_be_encoded(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="Expected: .* Next: "):
        melspec.waveform_to_mel(torch.zeros(shape), 16000, AUDIO)


def test_fit_latent_length() -> None:
    latent = torch.randn(1, 8, 5, 16)
    assert torch.equal(fit_latent_length(latent, 3), latent[:, :, :3])
    longer = fit_latent_length(latent, 7)
    assert torch.equal(longer[:, :, :5], latent) and not longer[:, :, 5:].any()


def upsampler_config(**changes: object) -> dict:
    return {"in_channels": 4, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, "spatial_upsample": True,
            "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": False} | changes


@pytest.mark.parametrize(("changes", "want"), [
    ({}, (3, 8, 12)),
    ({"rational_resampler": True}, (3, 8, 12)),
    ({"rational_resampler": True, "spatial_scale": 1.5}, (3, 6, 9)),
    ({"rational_resampler": True, "spatial_scale": 4.0}, (3, 16, 24)),
    ({"rational_resampler": True, "spatial_scale": 0.75}, (3, 3, 5)),
    ({"spatial_upsample": False, "temporal_upsample": True}, (5, 4, 6)),
    ({"temporal_upsample": True}, (5, 8, 12)),
])
@torch.no_grad()
def test_upsampler_sizes(changes: dict, want: tuple[int, ...]) -> None:
    module = filled(build("upsampler_x2", upsampler_config(**changes)))
    assert isinstance(module, LatentUpsampler)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    latent = torch.randn(2, 4, 3, 4, 6)
    got = upsample(module, latent, mean, std)
    assert got.shape == (2, 4, *want)
    column = (4, 1, 1, 1)
    raw = module(latent * std.view(column) + mean.view(column))
    assert torch.allclose(got * std.view(column) + mean.view(column), raw, atol=1e-5)


@pytest.mark.parametrize("changes", [{"rational_resampler": True, "spatial_scale": 1.3}, {"spatial_upsample": False}])
def test_upsampler_refuses_unknown_architectures(changes: dict) -> None:
    with pytest.raises(OverlayError):
        build("upsampler_x2", upsampler_config(**changes))
