"""What auto reckons with beside the weights is what the stages set aside when they run, for the official 22B model."""
from __future__ import annotations

import pytest
import torch

from bench.generate_weights import GEMMA_12B
from ltx23_core.config import (
    TEXT_TOKENS,
    AudioVAEConfig,
    TextProjectionConfig,
    TransformerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from ltx23_core.decode.ways import streamed_bytes
from ltx23_core.geometry import audio_latent_length, video_grid
from ltx23_core.memory.estimates import encode_bytes, sampling_bytes, sound_decode_bytes, sound_encode_bytes
from ltx23_core.memory.text import connector_bytes, gemma_bytes, projection_bytes
from ltx23_core.overlay.shelf.score import STAGES
from tests.support.overlay import manifest_22b

WIDTH, HEIGHT, FRAMES, FPS = 768, 512, 121, 24.0
CONFIG = manifest_22b()["metadata"]["config"]
BF16 = torch.bfloat16
PROJECTION = TextProjectionConfig(3840, 188160, 4096, 2048)


def set_aside() -> dict[str, int]:
    """Bytes by the first component of each stage."""
    grid, sound = video_grid(WIDTH, HEIGHT, FRAMES), audio_latent_length(FRAMES, FPS)
    latent = (1, 128, grid.frames, grid.height, grid.width)
    audio = AudioVAEConfig.from_dict(CONFIG["audio_vae"])
    vocoder = VocoderConfig.from_dict(CONFIG["vocoder"])
    return {
        "transformer": sampling_bytes(TransformerConfig.from_dict(CONFIG["transformer"]), grid.tokens, sound, passes=4,
                                      batch=1, bytes_per_value=2),
        "text_encoder": gemma_bytes(GEMMA_12B, TEXT_TOKENS, bytes_per_value=2),
        "text_projection": projection_bytes(PROJECTION, TEXT_TOKENS, bytes_per_value=2),
        "connectors": connector_bytes(4096, bytes_per_value=2),
        "video_encoder": encode_bytes(WIDTH, HEIGHT, 1, bytes_per_value=2),
        "video_decoder": streamed_bytes(VideoVAEConfig.from_dict(CONFIG["vae"]), latent, 8, BF16),
        "audio_decoder": sound_decode_bytes(audio, vocoder, sound, bytes_per_value=2),
        "audio_encoder": sound_encode_bytes(audio, sound, bytes_per_value=2),
    }


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_is_reckoned_with_what_it_sets_aside(stage: tuple[str, ...]) -> None:
    assert STAGES[stage] == pytest.approx(set_aside()[stage[0]], rel=0.02)
