"""Which module each component is, built from the overlay's configuration. Tensors to modules, nothing else.

A component's parameter names are the names its tensors have in an overlay (the official names without the
component's prefix), so a manifest entry *is* a parameter.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..config import (
    AudioVAEConfig,
    ConnectorConfig,
    Stack,
    TextProjectionConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from ..errors import OverlayError


def _transformer(config: Mapping[str, Any]) -> nn.Module:
    from .transformer.model import Transformer
    return Transformer(TransformerConfig.from_dict(config))


def _connectors(config: Mapping[str, Any]) -> nn.Module:
    from .text.connector import TextConnectors
    video = ConnectorConfig.from_dict(config, audio=False)
    audio = ConnectorConfig.from_dict(config, audio=True)
    return TextConnectors(video, audio)


def _text_projection(config: Mapping[str, Any]) -> nn.Module:
    from .text.feature_extractor import FeatureExtractor
    return FeatureExtractor(TextProjectionConfig(**config))


def _text_encoder(config: Mapping[str, Any]) -> nn.Module:
    from .text.gemma import build_gemma
    return build_gemma(config)


def _video_encoder(config: Mapping[str, Any]) -> nn.Module:
    from .video_vae.encoder import VideoEncoder
    return VideoEncoder(VideoVAEConfig.from_dict(config))


def _video_decoder(config: Mapping[str, Any]) -> nn.Module:
    from .video_vae.decoder import VideoDecoder
    return VideoDecoder(VideoVAEConfig.from_dict(config))


def _audio_encoder(config: Mapping[str, Any]) -> nn.Module:
    from .audio.vae import AudioEncoder
    return AudioEncoder(AudioVAEConfig.from_dict(config))


def _audio_decoder(config: Mapping[str, Any]) -> nn.Module:
    from .audio.vae import AudioDecoder
    return AudioDecoder(AudioVAEConfig.from_dict(config))


def _vocoder(config: Mapping[str, Any]) -> nn.Module:
    from .audio.vocoder import Vocoder
    return Vocoder(VocoderConfig.from_dict(config))


def _upsampler(config: Mapping[str, Any]) -> nn.Module:
    from .latent_upsampler import LatentUpsampler
    return LatentUpsampler(UpsamplerConfig.from_dict(config))


BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "transformer": _transformer, "connectors": _connectors, "text_projection": _text_projection,
    "text_encoder": _text_encoder, "video_encoder": _video_encoder, "video_decoder": _video_decoder,
    "audio_encoder": _audio_encoder, "audio_decoder": _audio_decoder, "vocoder": _vocoder,
    "upsampler_x2": _upsampler, "upsampler_x1.5": _upsampler, "upsampler_temporal_x2": _upsampler,
}


# Blocks that may come and go one by one while a component runs.
STACKS = {
    "transformer": Stack(("transformer_blocks",), shared=True),
    "text_encoder": Stack(("layers",), table="embed_tokens.weight"),
    "text_projection": Stack(rows=("video_aggregate_embed.weight", "audio_aggregate_embed.weight")),
    "connectors": Stack((
        "video_embeddings_connector.transformer_1d_blocks",
        "audio_embeddings_connector.transformer_1d_blocks",
    )),
}


def build(component: str, config: Mapping[str, Any]) -> nn.Module:
    """Build one component without allocating: every parameter is on the meta device, in eval mode.

    Args:
        component: a key of `BUILDERS`.
        config: that component's own configuration, as an overlay stores it (for the connectors:
            ``config.transformer``; for the text projection: the fields of `TextProjectionConfig`; for the text
            encoder: Gemma's config.json).
    """
    if component not in BUILDERS:
        raise OverlayError(f"component {component!r}", f"one of {', '.join(BUILDERS)}", "Use one of these "
                                                                                        "names.")
    with torch.device("meta"):
        return BUILDERS[component](config).eval().requires_grad_(False)
