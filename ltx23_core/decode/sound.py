"""Sound <-> audio latents in overlapping pieces, so that memory does not grow with the length (spec/05).

The audio VAE is causal and the vocoder sees a bounded stretch to both sides: what is kept of a piece lies so far
inside that it has all it depends on. Where that is equal bit for bit, and where it is not:

- a sound of one piece is made whole, so it is the whole;
- pieces of longer ones have one shape and lie on one grid from the beginning: a sound and one that goes on differently
  have the same bits up to the last piece of the shorter one, which begins earlier so that it ends with the sound;
- against the same stretch of a longer sound made whole it is equal to rounding (in float32 on a CPU 3e-6 of full
  scale): a library of convolutions takes other kernels, and other ends of its blocks, for another length.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import AudioVAEConfig, GeneratorConfig, VocoderConfig
from ..memory.estimates import SOUND_PIECE
from ..models.audio.mel import audio_latent_frames, log_mel_frames, padded_waveform

if TYPE_CHECKING:
    from ..models.audio.vae import AudioDecoder, AudioEncoder
    from ..models.audio.vocoder import Vocoder

PIECE = SOUND_PIECE  # about 15 s: longer than most clips
_ROWS = 4         # mel frames of a latent; the first latent of a clip is one frame
_FILTER = 6       # samples that an anti-aliased activation sees to each side, at most


@dataclass(frozen=True)
class Piece:
    """A stretch [read, read_end) of latents to compute, of which [keep, keep_end) is the result."""

    read: int
    read_end: int
    keep: int
    keep_end: int


def pieces(total: int, size: int, before: int, after: int) -> Iterator[Piece]:
    """Cut a length into pieces of one size with context on both sides; one piece where the whole is no longer.

    All pieces are equally long, the last one begins earlier: equal shapes take equal kernels.
    """
    if total <= size:
        yield Piece(0, total, 0, total)
        return
    keep = 0
    while keep < total:
        start = min(max(0, keep - before), total - size)
        end = keep_end = start + size
        if end < total:
            keep_end -= after
        yield Piece(start, end, keep, keep_end)
        keep = keep_end


def decoder_reach(config: AudioVAEConfig) -> int:
    """Latents before a latent that its mel frames depend on: two rows of each causal convolution, at its rate."""
    blocks = 2 * 2
    levels = len(config.channel_multipliers)
    reach = 2.0 + 2 * blocks
    for level in range(levels):
        rate = 2 ** level
        reach += (config.res_blocks + 1) * blocks / rate
        if level + 1 < levels:
            reach += 3 / (2 * rate)  # the convolution after the repetition, and the row that is dropped
    return math.ceil(reach + 2 / 2 ** (levels - 1)) + 1


def encoder_reach(config: AudioVAEConfig) -> int:
    """Latents before a latent that it depends on."""
    blocks = 2 * 2
    levels = len(config.channel_multipliers)
    rows = 2.0
    for level in range(levels):
        rows += config.res_blocks * blocks * 2 ** level
        if level + 1 < levels:
            rows += 2 * 2 ** level
    deepest = 2 ** (levels - 1)
    return math.ceil((rows + (2 * blocks + 2) * deepest) / deepest) + 1


def _generator_reach(config: GeneratorConfig) -> float:
    """Input frames to each side of a frame that its samples depend on."""
    rate, reach = 1, 3.0
    for factor, kernel in zip(config.rates, config.kernels, strict=True):
        reach += math.ceil(kernel / factor) / rate
        rate *= factor
        widest = 0  # of the blocks side by side, in samples
        for size, dilations in zip(config.res_kernels, config.dilations, strict=True):
            sides = sum((size - 1) // 2 * (dilation + 1) + 2 * _FILTER for dilation in dilations)
            widest = max(widest, sides)
        reach += widest / rate
    return reach + (_FILTER + 3) / rate


def vocoder_reach(config: VocoderConfig) -> int:
    """Mel frames to each side of a frame that its samples depend on, over both stages."""
    hop = math.prod(config.vocoder.rates)
    extension = (_generator_reach(config.bwe) + config.n_fft / config.hop_length) * config.hop_length / hop
    return math.ceil(_generator_reach(config.vocoder) + extension) + 1


def _decoded(configs: tuple[AudioVAEConfig, VocoderConfig], length: int, size: int) -> Iterator[Piece]:
    """The pieces of so many latents to decode."""
    vae, voices = configs
    beside = math.ceil(vocoder_reach(voices) / _ROWS) + 1  # mel frames to latents
    return pieces(length, size, before=decoder_reach(vae) + beside, after=beside)


def decode_pieces(configs: tuple[AudioVAEConfig, VocoderConfig], length: int) -> int:
    """How often `decode_sound` calls each module for so many latents."""
    return len(list(_decoded(configs, length, PIECE)))


def encode_pieces(config: AudioVAEConfig, length: int) -> int:
    """How often `encode_sound` calls the encoder for so many latents."""
    return len(list(pieces(length, PIECE, encoder_reach(config), 0)))


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """Parts behind each other; a single one is not copied."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=dim)


def decode_sound(decoder: AudioDecoder, vocoder: Vocoder, latent: Tensor,
                 configs: tuple[AudioVAEConfig, VocoderConfig], check: Callable[[], None] | None = None,
                 size: int = PIECE, stays: bool = False) -> Tensor:
    """Decode audio latents to the waveform, piece by piece.

    Args:
        decoder, vocoder: on the device of the latent.
        latent: (B, C, T, bins) in the decoder's dtype.
        configs: of both.
        check: called before each module runs; an exception raised in it ends decoding.
        size: latents of a piece, more than the modules see to both sides.
        stays: leave the waveform on the device: nothing waits for it here, and it is there as long as it is.

    Returns:
        (B, 2, samples) float32 on the CPU, in [-1, 1]; 480 samples for each of 4 T - 3 mel frames at 48 kHz.
    """
    check = check or (lambda: None)
    vae, voices = configs
    context = decoder_reach(vae)
    hop = math.prod(voices.vocoder.rates) * vocoder.ratio
    made = []
    for piece in _decoded(configs, latent.shape[2], size):
        check()
        mel = decoder(latent[:, :, piece.read:piece.read_end])
        first = _ROWS * piece.read                    # the mel frame of the clip that this mel begins with
        if piece.read:
            spoiled = _ROWS * context - 3             # frames that lack their past
            mel, first = mel[:, :, spoiled:], first + spoiled
        check()
        wave = vocoder(mel)
        start, end = max(0, _ROWS * piece.keep - 3), _ROWS * piece.keep_end - 3
        kept = wave[..., (start - first) * hop:(end - first) * hop].float()
        if not stays:
            kept = kept.cpu()
        made.append(kept)
        del mel, wave, kept
    return _joined(made, dim=-1)


def encode_sound(encoder: AudioEncoder, waveform: Tensor, config: AudioVAEConfig, dtype: torch.dtype,
                 check: Callable[[], None] | None = None, size: int = PIECE) -> Tensor:
    """Encode a waveform to audio latents, piece by piece.

    Args:
        encoder: on the device of the waveform.
        waveform: (B, 2, samples) float32 at ``config.sampling_rate``.
        config: of the encoder.
        dtype: of the encoder.
        check: called before each piece.
        size: latents of a piece, more than the encoder sees.

    Returns:
        (B, C, T, bins) in the encoder's dtype on its device, T = `audio_latent_frames`.
    """
    check = check or (lambda: None)
    total = audio_latent_frames(waveform.shape[-1], config)
    frames = waveform.shape[-1] // config.hop_length + 1
    padded = padded_waveform(waveform, config)
    made = []
    for piece in pieces(total, size, encoder_reach(config), 0):
        check()
        start, end = _ROWS * piece.read, min(frames, _ROWS * (piece.read_end - 1) + 1)
        if piece.read_end == total:
            end = frames
        part = padded[..., start * config.hop_length:(end - 1) * config.hop_length + config.n_fft]
        latent = encoder(log_mel_frames(part, config).to(dtype))
        made.append(latent[:, :, piece.keep - piece.read:piece.keep_end - piece.read])
    return _joined(made, dim=2)
