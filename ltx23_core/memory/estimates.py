"""How many bytes a stage needs beside its weights; estimated from shapes before anything is allocated."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import AudioVAEConfig, GeneratorConfig, TransformerConfig, VocoderConfig, gemma_config
from ..geometry import VideoGrid

WORKSPACE = 40 << 20  # of the matrix library: 32 MiB on an H100, allocated like a tensor
PIECES = 0.05  # of activations: what the allocator cannot use between pieces of different sizes
TIMESTEPS = 2  # that the tokens of one stream have at one sigma: noise and conditions
SOUND_PIECE = 384       # latents that `decode.sound` computes at once
SOUND_DECODER_TENSORS, SOUND_ENCODER_TENSORS, VOCODER_TENSORS = 6, 6, 10  # alive at once, see below


def sampling_bytes(config: TransformerConfig, video_tokens: int, audio_tokens: int, passes: int, batch: int,
                   bytes_per_value: int, *, context_tokens: int = 1024, nag: bool = False,
                   masked: bool = False, fused: bool = True) -> int:
    """Peak activations of one denoiser call, and what belongs to the run that calls it.

    Counted in widths: a number for each channel of each token. A pass between two stages of a block is two widths, a
    stream and the update that waits to be added (`models.transformer.model`: each pass's old pair is let go before the
    next pass runs). The pass that runs has its old and new stream (the old pair is two, counted above), its norm, and
    most in the self attention: queries, keys and values (3), queries and keys normed (2), the result, the gated
    result, the output: 2 passes + 10. Text attention and feed-forward take 3 less, but keys and values of the prompts
    are there meanwhile. The run keeps 1.5 (rotary tables) and latents. That none of this is forgotten, and none
    counted twice, is tested by counting live bytes (`tests/unit/memory/test_estimates.py`). Recorded forwards are not
    in it: they are made where there is twice as much room, and count as the component's (`models.transformer.graphs`).

    Args:
        video_tokens, audio_tokens: tokens of each stream, conditions included.
        passes: guidance passes that are kept side by side.
        batch: samples in one call.
        bytes_per_value: 2 for bfloat16.
        context_tokens: of a prompt.
        nag: normalized attention guidance: a second text attention and what its norms need.
        masked: the video self attention has a mask.
        fused: with Triton's kernels; the torch forms keep more in between.
    """
    both = config.video.width + config.audio.width
    width = (video_tokens * config.video.width + audio_tokens * config.audio.width) * bytes_per_value
    prompts = max(min(passes, 2), 1 + nag)
    prompt = context_tokens * both * bytes_per_value * batch
    kept = 2 * passes
    attending = kept + 10
    reading = kept + 7
    copies = 3 * prompts + 1
    if not fused:
        attending += 2
        copies += 2
    if nag:
        reading += 3.5
    keys_values = copies * prompt
    call = max(attending * width * batch, reading * width * batch + keys_values)
    run = (1.5 + 0.25 * batch) * width + prompts * prompt
    rows = TIMESTEPS * config.layers * 16 * both * bytes_per_value * batch
    mask = 0
    if masked:
        mask = 12 * video_tokens ** 2 * batch
    return int((call + run) * (1 + PIECES)) + rows + mask + WORKSPACE


def upsample_bytes(mid_channels: int, grid: VideoGrid, bytes_per_value: int) -> int:
    """Peak activations of the x2 latent upsampler: 4 tensors of its width at the larger size."""
    return 4 * mid_channels * grid.tokens * 4 * bytes_per_value


def encode_bytes(width: int, height: int, frames: int, bytes_per_value: int) -> int:
    """Peak of the video encoder on one tile, in pixels: the pixels, and at its first residual blocks three tensors of
    128 channels at a quarter of the size, two of them padded in time.

    Measured on an H100 in bfloat16: 1 to 3 % below this for 73 and 121 frames (73x512x768: 1.57 GB).
    """
    cells = (width // 4) * (height // 4)
    return (3 * 128 * (frames + 3) + 48 * frames) * cells * bytes_per_value


def sound_decode_bytes(vae: AudioVAEConfig, vocoder: VocoderConfig, latents: int, bytes_per_value: int) -> int:
    """Peak of decoding audio latents, in pieces (`decode.sound`): the larger of its two networks on one piece.

    Audio decoder: at its first level tensors of C channels x mel bins for each mel frame, six at once at a residual
    block. Vocoder, float32: at the stage with the most values a mel frame the tensor, the running sum of blocks, and
    a block's residual with its activation at twice the rate, padded and filtered: ten tensors.
    """
    frames = 4 * min(latents, SOUND_PIECE)
    mel = SOUND_DECODER_TENSORS * vae.base_channels * vae.channel_multipliers[0] * vae.mel_bins * bytes_per_value
    hop = math.prod(vocoder.vocoder.rates)
    second = _most_values(vocoder.bwe) * hop // vocoder.hop_length
    return frames * max(mel, 4 * VOCODER_TENSORS * max(_most_values(vocoder.vocoder), second))


def _most_values(generator: GeneratorConfig) -> int:
    """Values of the largest stage's tensor for one input frame."""
    channels, rate, most = generator.initial_channels, 1, 0
    for factor in generator.rates:
        channels, rate = channels // 2, rate * factor
        most = max(most, channels * rate)
    return most


def sound_encode_bytes(vae: AudioVAEConfig, latents: int, bytes_per_value: int) -> int:
    """Peak of encoding a sound, in pieces: at the encoder's first level six tensors of C channels x mel bins for each
    mel frame of a piece; beside it the whole waveform at 16 kHz, padded and resampled, in float32."""
    frames = 4 * min(latents, SOUND_PIECE)
    waveform = 4 * latents * 4 * 2 * vae.hop_length * vae.in_channels
    return (frames * SOUND_ENCODER_TENSORS * vae.base_channels * vae.channel_multipliers[0] * vae.mel_bins
            * bytes_per_value + waveform)


def generation_bytes(config: Mapping[str, Any], tokens: int, new_tokens: int, bytes_per_value: int,
                     image: bool = False) -> int:
    """Peak activations of Gemma 3 writing text: its KV cache, the question's pass, and the scores of one token.

    Args:
        config: Gemma's config.json.
        tokens, new_tokens: of the question, and at most of the answer.
        bytes_per_value: of cache and activations.
        image: a picture goes through the vision tower first.

    The cache is counted twice, since transformers' grows by copying and ours (`models.text.step`) is made beside what
    was heard of the question, and whole in layers with a window too. The question's pass holds about three hidden
    layers and six widths a token. Scores are float32, sorted and summed for the draw; a
    quantised head unfolds pieces of its table (`ROWS_AT_ONCE`). The tower runs over 4096 patches.
    """
    c = gemma_config(config)
    cache = 2 * c["num_hidden_layers"] * c["num_key_value_heads"] * c["head_dim"] * (tokens + new_tokens)
    question = tokens * (3 * c["intermediate_size"] + 6 * c["hidden_size"])
    scores = 10 * 4 * c["vocab_size"] + 2 * (1 << 14) * c["hidden_size"] * bytes_per_value
    total = (2 * cache + question) * bytes_per_value + scores
    if image:
        total += 1 << 29
    return total
