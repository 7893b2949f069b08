"""How many bytes the encoding of a prompt needs beside its weights; from shapes alone, see `estimates`."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import TEXT_TOKENS, TextProjectionConfig, gemma_config
from .estimates import WORKSPACE


def gemma_bytes(config: Mapping[str, Any], tokens: int, bytes_per_value: int) -> int:
    """Peak activations of one prompt through Gemma 3: all its hidden states, and what a layer's feed-forward holds.

    A layer has gate, up and their product, and five widths: the residual, what was normed, and its float32 forms.

    Args:
        config: Gemma's config.json.
        tokens: of the prompt.
        bytes_per_value: 2 for bfloat16.
    """
    c = gemma_config(config)
    states = (c["num_hidden_layers"] + 1) * c["hidden_size"]
    layer = 3 * c["intermediate_size"] + 5 * c["hidden_size"]
    return tokens * (states + layer) * bytes_per_value + WORKSPACE


def projection_bytes(config: TextProjectionConfig, tokens: int, bytes_per_value: int) -> int:
    """Peak activations of the text projection: all states of each token in one vector, twice (as they are, and scaled
    for a stream), the features, and one state while it is normed."""
    features = 2 * (config.video_features + config.audio_features)
    return tokens * (2 * config.in_features + features + 4 * config.caption_channels) * bytes_per_value + WORKSPACE


def connector_bytes(width: int, bytes_per_value: int) -> int:
    """Peak activations of the wider connector over a whole context: residual, norm and update, and the feed-forward's
    four widths twice; beside them the other stream's context and the rotary tables."""
    return TEXT_TOKENS * 14 * width * bytes_per_value + WORKSPACE
