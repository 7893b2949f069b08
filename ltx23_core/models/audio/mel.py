"""Waveform -> log-mel spectrogram, the front end of the audio encoder (spec/05 §2, §6).

Resampler, filterbank and transform are written from their formulas: torchaudio, where ComfyUI has it, needs a
compiled extension that may not fit the user's torch. All work is float32, on the device of the waveform.
"""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import AudioVAEConfig
from ...errors import MediaError

LOG_FLOOR = 1e-5        # magnitudes are clamped here before the logarithm
SINC_WIDTH = 6         # zero crossings of the resampling sinc on each side
SINC_ROLLOFF = 0.99    # cut-off as a fraction of the lower Nyquist frequency
_MAX_KERNEL = 2**25     # resampling kernel elements; a rate that shares no factor with ours needs far more
_SLANEY_LINEAR = 200 / 3             # Hz a mel below the break
_SLANEY_BREAK = 1000.0               # Hz; linear below, logarithmic above
_SLANEY_LOG = math.log(6.4) / 27     # logarithm of frequency a mel above the break


def windowed_sinc(t: Tensor) -> Tensor:
    """Low-pass impulse response sinc(t) under a cos^2 (Hann) window that ends at `SINC_WIDTH`; t in zero crossings."""
    window = torch.cos(t.clamp(-SINC_WIDTH, SINC_WIDTH) * (math.pi / SINC_WIDTH / 2)) ** 2
    return torch.sinc(t) * window


def resampled_length(samples: int, rate: int, new_rate: int) -> int:
    """Samples after `resample`: ceil(samples * new_rate / rate)."""
    return -(-samples * new_rate // rate)


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """Band-limited resampling; the windowed-sinc algorithm with torchaudio's default settings (spec/05 §2).

    Every block of rate/gcd input samples gives new_rate/gcd outputs, one filter of the bank for each of them.

    Args:
        waveform: (..., samples) float32.
        rate: its sample rate in Hz.
        new_rate: the wanted rate in Hz.

    Returns:
        (..., `resampled_length`) float32.

    Raises:
        MediaError: the two rates share so small a factor that the filter bank would not fit in memory.
    """
    if rate == new_rate:
        return waveform
    divisor = math.gcd(rate, new_rate)
    step, phases = rate // divisor, new_rate // divisor
    cutoff = min(step, phases) * SINC_ROLLOFF
    width = math.ceil(SINC_WIDTH * step / cutoff)
    if phases * (2 * width + step) > _MAX_KERNEL:
        raise MediaError(f"sample rate is {rate} Hz, which shares almost no factor with {new_rate} Hz",
                         "a usual rate such as 16000, 44100 or 48000 Hz", "Convert the audio to 48000 Hz first.")
    taps = torch.arange(-width, width + step, dtype=torch.float64, device="cpu") / step
    start = torch.arange(phases, dtype=torch.float64, device="cpu") / phases
    bank = windowed_sinc((taps - start[:, None]) * cutoff) * (cutoff / step)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (width, width + step))
    blocks = F.conv1d(padded, bank[:, None].to(waveform), stride=step)  # (N, phases, blocks)
    length = resampled_length(waveform.shape[-1], rate, new_rate)
    return blocks.transpose(1, 2).flatten(1)[:, :length].reshape(*waveform.shape[:-1], length)


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


def log_mel(waveform: Tensor, config: AudioVAEConfig) -> Tensor:
    """Log-mel magnitudes of centred, reflect-padded Hann frames (spec/05 §2).

    Args:
        waveform: (B, channels, samples) float32 in [-1, 1] at ``config.sampling_rate``.
        config: of the audio VAE.

    Returns:
        (B, channels, `mel_frames`, mel_bins) float32, at least log(1e-5).

    Raises:
        MediaError: shorter than half a window, which the reflection at the ends needs.
    """
    batch, channels, samples = waveform.shape
    if samples <= config.n_fft // 2:
        raise MediaError(f"the audio has {samples} samples at {config.sampling_rate} Hz",
                         f"more than {config.n_fft // 2} ({config.n_fft / 2 / config.sampling_rate:.3f} seconds)",
                         "Use a longer audio clip.")
    window = torch.hann_window(config.n_fft, device=waveform.device)
    spectrum = torch.stft(waveform.flatten(0, 1), config.n_fft, config.hop_length, window=window, center=True,
                          pad_mode="reflect", return_complex=True).abs()
    bank = mel_filterbank(config.mel_bins, config.n_fft, config.sampling_rate, config.mel_fmin, config.mel_fmax)
    mel = (bank.to(waveform.device) @ spectrum).clamp(min=LOG_FLOOR).log()
    return mel.transpose(1, 2).unflatten(0, (batch, channels))


def as_stereo(waveform: Tensor) -> Tensor:
    """(B, 1 or 2, samples) -> (B, 2, samples): the encoder takes stereo only, so mono goes to both channels.

    Raises:
        MediaError: another number of dimensions or channels.
    """
    if waveform.ndim != 3 or waveform.shape[1] not in (1, 2):
        raise MediaError(f"the waveform has shape {tuple(waveform.shape)}", "(batch, 1 or 2 channels, samples)",
                         "Mix the audio down to stereo.")
    return waveform.expand(-1, 2, -1)


def waveform_to_mel(waveform: Tensor, rate: int, config: AudioVAEConfig) -> Tensor:
    """What the audio encoder takes: (B, 1 or 2, samples) at ``rate`` Hz -> (B, 2, frames, mel_bins) float32."""
    return log_mel(resample(as_stereo(waveform).float(), rate, config.sampling_rate), config)


def mel_frames(samples: int, config: AudioVAEConfig) -> int:
    """Mel frames of ``samples`` at the encoder's rate: the frames are centred, so one more than whole hops."""
    return samples // config.hop_length + 1


def audio_latent_frames(samples: int, config: AudioVAEConfig) -> int:
    """Latent frames that ``samples`` at the encoder's rate encode to (spec/05 §6)."""
    halvings = len(config.channel_multipliers) - 1
    return -(-mel_frames(samples, config) // 2**halvings)


def fit_latent_length(latent: Tensor, frames: int) -> Tensor:
    """Cut, or pad with zeros behind, the time axis of an audio latent (B, C, T, F) to exactly ``frames``."""
    return F.pad(latent[:, :, :frames], (0, 0, 0, max(0, frames - latent.shape[2])))
