"""Vocoder: log-mel -> 16 kHz waveform -> bandwidth extension to 48 kHz (spec/05 §4, §5)."""
from __future__ import annotations

import math
from itertools import chain

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from ...config import GeneratorConfig, VocoderConfig
from ...ops.resample import SINC_ROLLOFF, SINC_WIDTH, windowed_sinc
from .activation import AntiAliasedSnake
from .mel import LOG_FLOOR

_CHANNELS = 2  # stereo; the configuration check admits nothing else


class ResidualBlock(nn.Module):
    """BigVGAN's AMP block: dilated and plain convolutions in turn, each behind an anti-aliased activation."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            same_length = dilation * (kernel - 1) // 2
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=same_length)

        self.convs1, self.convs2 = nn.ModuleList(), nn.ModuleList()
        self.acts1, self.acts2 = nn.ModuleList(), nn.ModuleList()
        for dilation in dilations:
            self.convs1.append(conv(dilation))
            self.convs2.append(conv(1))
            self.acts1.append(AntiAliasedSnake(channels))
            self.acts2.append(AntiAliasedSnake(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) -> same."""
        for act1, conv1, act2, conv2 in zip(self.acts1, self.convs1, self.acts2, self.convs2, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class Generator(nn.Module):
    """BigVGAN-style generator: stages that raise the rate and halve the channels."""

    def __init__(self, config: GeneratorConfig, mel_bins: int) -> None:
        super().__init__()
        channels = config.initial_channels
        self.kinds = len(config.res_kernels)  # residual blocks a stage; their outputs are averaged
        self.conv_pre = nn.Conv1d(_CHANNELS * mel_bins, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            crop = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=crop))
            channels //= 2
            for res_kernel, dilations in zip(config.res_kernels, config.dilations, strict=True):
                self.resblocks.append(ResidualBlock(channels, res_kernel, dilations))
        self.act_post = AntiAliasedSnake(channels)
        self.conv_post = nn.Conv1d(channels, _CHANNELS, 7, padding=3, bias=False)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 2, mel_bins, T) -> (B, 2, T * product of rates), unbounded."""
        x = self.conv_pre(rearrange(mel, "b side bins frames -> b (side bins) frames"))
        for stage, up in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[stage * self.kinds:(stage + 1) * self.kinds]
            x = sum(block(x) for block in blocks) / self.kinds
        return self.conv_post(self.act_post(x))


class _Basis(nn.Module):
    """Windowed Fourier basis (real rows, then imaginary ones). The inverse is in the files and never used."""

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        rows = 2 * (n_fft // 2 + 1)
        self.register_buffer("forward_basis", torch.empty(rows, 1, n_fft))
        self.register_buffer("inverse_basis", torch.empty(rows, 1, n_fft))


class MelSTFT(nn.Module):
    """Causal log-mel of a waveform, with the bases of the checkpoint: a frame ends where its hop ends."""

    def __init__(self, n_fft: int, hop_length: int, mel_bins: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.stft_fn = _Basis(n_fft)
        self.register_buffer("mel_basis", torch.empty(mel_bins, n_fft // 2 + 1))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, channels, L), L a multiple of the hop -> (B, channels, mel_bins, L / hop), at least log(1e-5)."""
        basis = self.stft_fn.forward_basis
        rows = F.pad(rearrange(waveform, "b side n -> (b side) 1 n"), (basis.shape[-1] - self.hop_length, 0))
        real, imaginary = F.conv1d(rows, basis, stride=self.hop_length).chunk(2, dim=1)
        mel = self.mel_basis @ torch.sqrt(real**2 + imaginary**2)
        return rearrange(mel.clamp(min=LOG_FLOOR).log(), "(b side) bins frames -> b side bins "
                                                         "frames", b=len(waveform))


def upsample_waveform(waveform: Tensor, ratio: int) -> Tensor:
    """Windowed-sinc upsampling by a whole ratio; ends continued by their last sample. (B, C, L) -> (B, C, ratio * L).

    The filter is not in the checkpoint. It is a few dozen numbers, so it is made here each time, on the device.
    """
    width = math.ceil(SINC_WIDTH / SINC_ROLLOFF)
    t = torch.arange(2 * width * ratio + 1, device=waveform.device) / ratio - width
    kernel = windowed_sinc(t * SINC_ROLLOFF)[None, None] * SINC_ROLLOFF
    rows = rearrange(F.pad(waveform, (width, width), mode="replicate"), "b side n -> (b side) 1 n")
    wide = F.conv_transpose1d(rows, kernel.to(waveform), stride=ratio)
    start = 2 * width * ratio  # the padding and half the filter
    inner = wide[..., start:start + ratio * waveform.shape[-1]]
    return rearrange(inner, "(b side) 1 n -> b side n", b=len(waveform))


class Vocoder(nn.Module):
    """Mel -> stereo waveform. Computes in float32 whatever the dtype of the input and of the parameters."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.output_rate = config.output_rate
        self.ratio = config.output_rate // config.input_rate
        self.vocoder = Generator(config.vocoder, config.mel_bins)
        self.bwe_generator = Generator(config.bwe, config.mel_bins)
        self.mel_stft = MelSTFT(config.n_fft, config.hop_length, config.mel_bins)

    def forward(self, mel: Tensor) -> Tensor:
        """Make the waveform.

        Args:
            mel: (B, 2, T, mel_bins) log-mel from `AudioDecoder`, any float dtype.

        Returns:
            (B, 2, samples) float32 in [-1, 1] at `output_rate` (48 kHz: 480 samples a mel frame).
        """
        tensors = chain(self.named_parameters(), self.named_buffers())
        rounded = {name: tensor.float() for name, tensor in tensors if tensor.dtype != torch.float32}
        if rounded:  # bfloat16 here is audible (spec/05 §5): run this call on float32 copies
            return functional_call(self, rounded, (mel,))
        return self.extend(self.base_waveform(mel.float()))

    def base_waveform(self, mel: Tensor) -> Tensor:
        """First stage: (B, 2, T, mel_bins) float32 -> (B, 2, samples) in [-1, 1] at the input rate (16 kHz)."""
        return self.vocoder(rearrange(mel, "b side frames bins -> b side bins frames")).clamp(-1, 1)

    def extend(self, waveform: Tensor) -> Tensor:
        """Second stage, adds the upper band: (B, 2, L) float32 -> (B, 2, ratio * L) in [-1, 1] at the output rate."""
        length = waveform.shape[-1]
        padded = F.pad(waveform, (0, -length % self.mel_stft.hop_length))
        residual = self.bwe_generator(self.mel_stft(padded))
        return (residual + upsample_waveform(padded, self.ratio)).clamp(-1, 1)[..., :self.ratio * length]
