"""How many bytes a stage needs beside its weights; estimated from shapes before anything is allocated."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..config import AudioVAEConfig, GeneratorConfig, TransformerConfig, VocoderConfig, gemma_config
from ..geometry import VideoGrid
from .pieces import forward_pieces, in_pieces

WORKSPACE = 40 << 20  # of the matrix library: 32 MiB on an H100, allocated like a tensor
CUDNN = 64 << 20  # bytes that its convolutions take beside: 42 to 65 MB measured on an H200
PIECES = 0.05  # of activations: what the allocator cannot use between pieces of different sizes
MASK_QUERIES = 512  # `models.transformer.masked.QUERIES`: as many rows of a mask are there at once
SOUND_PIECE = 384       # latents that `decode.sound` computes at once
SOUND_DECODER_TENSORS, SOUND_ENCODER_TENSORS, VOCODER_TENSORS = 6, 5, 10  # alive at once, see below
REARRANGED = 2  # beside those of the encoder: input and output of a convolution as its library lays them out


class Tokens(NamedTuple):
    """What one call of the transformer is over.

    Attributes:
        video, audio: tokens, those of conditions included; 0 for an absent stream.
        levels: different timesteps of the tokens of (video, audio).
        masked: the video self attention has a mask.
    """

    video: int
    audio: int
    levels: tuple[int, int] = (1, 1)
    masked: bool = False


def sampling_bytes(config: TransformerConfig, video_tokens: int, audio_tokens: int, passes: int | tuple[int, int],
                   batch: int, bytes_per_value: int, *, context_tokens: int = 1024, nag: bool = False,
                   masked: bool = False, fused: bool = True, levels: tuple[int, int] = (2, 2),
                   positive_alone: tuple[bool, bool] = (False, False), recorded: bool = False) -> int:
    """Peak activations of one denoiser call, and what belongs to the run that calls it.

    Counted in widths: a number for each channel of each token. A pass between two stages of a block is two widths, a
    stream and the update that waits to be added (`models.transformer.model`); the one that runs lets its old pair go,
    and has 7: its stream and its norm with queries, keys and values (3), which the gate logits keep, the attention's
    result and the output, or with what a feed-forward makes (4) and its output. The torch forms write nothing in place:
    12. Where tensors are large a forward first takes pieces in which all of the video's fit (`pieces.forward_pieces`):
    more than is alive, and all that the allocator holds. Keys and values of the prompts are there beside the
    feed-forward, and latents during the run, with the torch forms also rotary tables (1.5); kernels read those by
    position (`ops.rope.RopeRows`). That none of this is forgotten, and none counted twice, is tested by counting live
    bytes, and what an allocator holds for them (`tests/unit/memory/test_estimates.py`, ``test_allocator.py``). A
    recorded forward (`models.transformer.graphs`) has its activations in memory of its own, in place of those of a
    call, copies of what a run keeps, its inputs, and the matrix library's workspace for each of its two streams.

    Args:
        video_tokens, audio_tokens: tokens of each stream, conditions included.
        passes: guidance passes that are kept side by side: of both streams, or of (video, audio).
        batch: samples in one call.
        bytes_per_value: 2 for bfloat16.
        context_tokens: of a prompt.
        nag: normalized attention guidance: a second text attention and what its norms need.
        masked: the video self attention has a mask.
        fused: with Triton's kernels; the torch forms keep more in between.
        levels: different timesteps that the tokens of (video, audio) have at one sigma: noise, and what holds them.
        positive_alone: whether (video, audio) has no guidance, so that no pass gives it the negative prompt.
        recorded: the forward may be recorded.
    """
    widths = config.video.width * bytes_per_value, config.audio.width * bytes_per_value  # of a token
    side_by_side = passes
    if isinstance(passes, int):
        side_by_side = passes, passes
    streams = zip(widths, (video_tokens, audio_tokens), side_by_side, positive_alone, levels, strict=True)
    width = kept = prompts = copies = modulated = pushed = rows = 0.0
    for channels, tokens, count, alone, timesteps in streams:
        texts = 1
        if not alone:
            texts = max(min(count, 2), 1 + nag)
        width += tokens * channels
        kept += 2 * max(count - 1, 0) * tokens * channels
        prompts += texts * context_tokens * channels
        copies += (2 + (not fused)) * texts * context_tokens * channels
        modulated += (1 + 2 * (not fused)) * context_tokens * channels
        pushed += 2.5 * (nag and not alone) * tokens * channels
        rows += timesteps * config.layers * 16 * channels
    attending = (7 + 5 * (not fused)) * width
    feeding = 7 * width + pushed + copies
    reading = 6 * width + pushed + copies + modulated
    call = kept + max(attending, feeding, reading)
    run = 1.5 * (not fused) * width + batch * (0.25 * width + prompts)
    pieces = 0
    if fused:
        pieces = sum(map(in_pieces, forward_pieces(
            batch, video_tokens, config.video.width, config.video.heads, bytes_per_value,
            max(side_by_side[0] - 1, 0), nag and not positive_alone[0])))
    if pieces:
        own = 7 + 2 * max(side_by_side[1] - 1, 0)
        call = own * audio_tokens * widths[1] + 0.75 * copies  # the smallest pieces hold the rest
    if recorded:
        run = 2 * run + 2 * WORKSPACE
    mask = 0
    if masked:
        mask = MASK_QUERIES * (video_tokens + config.video.width) * bytes_per_value
    return int((batch * call + run) * (1 + PIECES) + batch * (rows + mask)) + pieces + WORKSPACE


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
    a block's residual with its activation at twice the rate, padded and filtered: ten tensors; beside them the piece's
    waveform. Counted live bytes are at most 1 % below (`tests/unit/memory/test_sound_estimates.py`); a process that has
    multiplied nothing yet also takes the matrix library's workspace (H200, 5 s of sound: 34 MB).
    """
    frames = 4 * min(latents, SOUND_PIECE)
    mel = SOUND_DECODER_TENSORS * vae.base_channels * vae.channel_multipliers[0] * vae.mel_bins * bytes_per_value
    hop = math.prod(vocoder.vocoder.rates)
    second = _most_values(vocoder.bwe) * hop // vocoder.hop_length
    waveform = 4 * 2 * hop * vocoder.output_rate // vocoder.input_rate
    networks = max(mel, 4 * VOCODER_TENSORS * max(_most_values(vocoder.vocoder), second) + waveform)
    return frames * networks + WORKSPACE


def sound_beside_bytes(vae: AudioVAEConfig, vocoder: VocoderConfig, latents: int,
                       bytes_per_value: int) -> int:
    """Peak of the same on a second stream: the whole waveform stays there, twice while its pieces are joined, and the
    stream has workspaces of its own for the libraries of convolutions and matrices."""
    samples = 4 * latents * math.prod(vocoder.vocoder.rates) * vocoder.output_rate // vocoder.input_rate
    alone = sound_decode_bytes(vae, vocoder, latents, bytes_per_value)
    return alone + 2 * 4 * 2 * samples + CUDNN + WORKSPACE


def _most_values(generator: GeneratorConfig) -> int:
    """Values of the largest stage's tensor for one input frame."""
    channels, rate, most = generator.initial_channels, 1, 0
    for factor in generator.rates:
        channels, rate = channels // 2, rate * factor
        most = max(most, channels * rate)
    return most


def sound_encode_bytes(vae: AudioVAEConfig, latents: int, bytes_per_value: int) -> int:
    """Peak of encoding a sound, in pieces: at the encoder's first level tensors of C channels x mel bins for each mel
    frame of a piece, five that are alive and two of the library of convolutions; the whole waveform at 16 kHz, and
    padded, in float32; the matrix library's workspace."""
    frames = 4 * min(latents, SOUND_PIECE)
    waveform = 4 * latents * 4 * 2 * vae.hop_length * vae.in_channels
    tensors = SOUND_ENCODER_TENSORS + REARRANGED
    return (frames * tensors * vae.base_channels * vae.channel_multipliers[0] * vae.mel_bins * bytes_per_value
            + waveform + WORKSPACE)


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
