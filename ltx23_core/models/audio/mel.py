"""Waveform -> log-mel spectrogram, the front end of the audio encoder (spec/05 §2, §6).

Filterbank and transform are written from their formulas: torchaudio, where ComfyUI has it, needs a compiled extension
that may not fit the user's torch. All work is float32, on the device of the waveform.
"""
from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ...config import AudioVAEConfig
from ...errors import MediaError
from ...ops.resample import resample

LOG_FLOOR = 1e-5        # magnitudes are clamped here before the logarithm
_SLANEY_LINEAR = 200 / 3             # Hz a mel below the break
_SLANEY_BREAK = 1000.0               # Hz; linear below, logarithmic above
_SLANEY_LOG = math.log(6.4) / 27     # logarithm of frequency a mel above the break


def _hz_to_mel(hz: float) -> float:
    """Slaney's mel scale."""
    if hz < _SLANEY_BREAK:
        return hz / _SLANEY_LINEAR
    return _SLANEY_BREAK / _SLANEY_LINEAR + math.log(hz / _SLANEY_BREAK) / _SLANEY_LOG


def _mel_to_hz(mel: Tensor) -> Tensor:
    """Inverse of `_hz_to_mel`, elementwise."""
    above = mel - _SLANEY_BREAK / _SLANEY_LINEAR
    return torch.where(above < 0, mel * _SLANEY_LINEAR, _SLANEY_BREAK * torch.exp(above * _SLANEY_LOG))


def mel_filterbank(bins: int, n_fft: int, rate: int, fmin: float, fmax: float) -> Tensor:
    """Triangular filters, Slaney scale, each of area 1 (Slaney norm): (bins, n_fft // 2 + 1) float32 on the CPU."""
    mels = torch.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), bins + 2, dtype=torch.float64, device="cpu")
    edges = _mel_to_hz(mels)[:, None]
    frequencies = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * (2 / (high - low))).float()


def padded_waveform(waveform: Tensor, config: AudioVAEConfig) -> Tensor:
    """A sound continued by its mirror image for half a window at both ends, so that frame k begins at sample k hops.

    Raises:
        MediaError: shorter than half a window, which the reflection at the ends needs.
    """
    samples, reach = waveform.shape[-1], config.n_fft // 2
    if samples <= reach:
        raise MediaError(f"the audio has {samples} samples at {config.sampling_rate} Hz",
                         f"more than {reach} ({reach / config.sampling_rate:.3f} seconds)", "Use a longer audio clip.")
    return functional.pad(waveform, (reach, reach), mode="reflect")


def log_mel_frames(padded: Tensor, config: AudioVAEConfig) -> Tensor:
    """Log-mel magnitudes of the whole windows of a padded sound: (B, channels, samples) -> (B, channels, frames, bins).

    float32, at least log(1e-5).
    """
    window = torch.hann_window(config.n_fft, device=padded.device)
    rows = rearrange(padded, "b channels samples -> (b channels) samples")
    spectrum = torch.stft(rows, config.n_fft, config.hop_length, window=window, center=False,
                          return_complex=True).abs()
    bank = mel_filterbank(config.mel_bins, config.n_fft, config.sampling_rate,
                          fmin=config.mel_fmin, fmax=config.mel_fmax)
    mel = (bank.to(padded.device) @ spectrum).clamp(min=LOG_FLOOR).log()
    return rearrange(mel, "(b channels) bins frames -> b channels frames bins", b=len(padded))


def log_mel(waveform: Tensor, config: AudioVAEConfig) -> Tensor:
    """Log-mel magnitudes of centred, reflect-padded Hann frames (spec/05 §2).

    Args:
        waveform: (B, channels, samples) float32 in [-1, 1] at ``config.sampling_rate``.
        config: of the audio VAE.

    Returns:
        (B, channels, `mel_frames`, mel_bins) float32, at least log(1e-5).

    Raises:
        MediaError: shorter than half a window.
    """
    return log_mel_frames(padded_waveform(waveform, config), config)


def waveform_to_mel(waveform: Tensor, rate: int, config: AudioVAEConfig) -> Tensor:
    """What the audio encoder takes: (B, 1 or 2, samples) at ``rate`` Hz -> (B, 2, frames, mel_bins) float32.

    Raises:
        MediaError: another number of dimensions or channels; `media.audio.as_stereo` mixes those down.
    """
    if waveform.ndim != 3 or waveform.shape[1] not in (1, 2):
        raise MediaError(f"the waveform has shape {tuple(waveform.shape)}", "(batch, 1 or 2 channels, "
                                                                            "samples)",
                         "Mix the audio down to stereo.")
    return log_mel(resample(waveform.expand(-1, 2, -1).float(), rate, config.sampling_rate), config)


def mel_frames(samples: int, config: AudioVAEConfig) -> int:
    """Mel frames of ``samples`` at the encoder's rate: the frames are centred, so one more than whole hops."""
    return samples // config.hop_length + 1


def audio_latent_frames(samples: int, config: AudioVAEConfig) -> int:
    """Latent frames that ``samples`` at the encoder's rate encode to (spec/05 §6)."""
    halvings = len(config.channel_multipliers) - 1
    return -(-mel_frames(samples, config) // 2**halvings)
