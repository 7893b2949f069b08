"""The one place where training imports the library."""
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ltx23_core.config import (
    REGISTERS,
    TEXT_TOKENS,
    AudioVAEConfig,
    VideoVAEConfig,
)
from ltx23_core.geometry import audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.models.audio.mel import log_mel, mel_filterbank
from ltx23_core.models.audio.vocoder import upsample_waveform
from ltx23_core.models.latent_upsampler import LatentUpsampler
from ltx23_core.models.registry import build
from ltx23_core.models.text.connector import Connector, TextConnectors
from ltx23_core.models.text.feature_extractor import FeatureExtractor, normalize_and_concat
from ltx23_core.models.text.gemma import build_gemma, hidden_states, restore_buffers
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput, StreamTables
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.models.video_vae.decoder import VideoDecoder
from ltx23_core.models.video_vae.encoder import VideoEncoder
from ltx23_core.models.video_vae.layers import block_stride, depth_to_space, patchify, space_to_depth, unpatchify
from ltx23_core.ops.attention import aligned, changing_shapes
from ltx23_core.ops.pick import choose
from ltx23_core.ops.rope import Rope, rope_tables
from ltx23_core.plan.recipes import DEFAULT_NEGATIVE_PROMPT, DISTILLED_SIGMAS, official_guidance, stg_block
from ltx23_core.plan.sigmas import ltx2_schedule
from ltx23_core.prompt.spiece import tokenizer_files as sentencepiece_files
from ltx23_core.prompt.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_NEGATIVE_PROMPT", "DISTILLED_SIGMAS", "REGISTERS", "TEXT_TOKENS", "AudioVAEConfig", "Connector",
    "FeatureExtractor", "LatentUpsampler", "Pass", "Perturbation", "Rope", "StreamInput", "StreamTables",
    "TextConnectors", "Tokenizer", "Transformer", "VideoDecoder", "VideoEncoder", "VideoVAEConfig",
    "audio_latent_length", "audio_positions", "block_stride", "build", "build_gemma", "depth_to_space",
    "hidden_states", "log_mel", "ltx2_schedule", "mel_filterbank", "normalize_and_concat", "official_guidance",
    "patchify", "plain_attention", "restore_buffers", "rope_tables", "sentencepiece_files", "space_to_depth",
    "stg_block", "unpatchify", "upsample_waveform", "video_grid", "video_positions",
]


def plain_attention(modules: Iterable[nn.Module]) -> None:
    """Make modules learn: torch's own choice of attention and the torch forms of all operations have gradients."""
    choose("torch")
    for module in modules:
        for part in module.modules():
            if hasattr(part, "attend"):
                part.attend = _attend


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """As the library's, without the kernels that prepare for every shape."""
    with changing_shapes():
        return scaled_dot_product_attention(aligned(query), aligned(key), aligned(value), bias)
