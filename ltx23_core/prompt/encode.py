"""From a prompt to the two contexts of the transformer, in two halves.

`gemma.hidden_states` needs only Gemma, `contexts` only the projection and the connectors: a pipeline may release
the one before it loads the others. Every result depends on the prompt alone (spec/03 §5).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.text.connector import TextConnectors
from ..models.text.feature_extractor import FeatureExtractor


@torch.no_grad()
def contexts(projection: FeatureExtractor, connectors: TextConnectors, states: Sequence[Tensor],
             check: Callable[[], None] | None = None) -> tuple[Tensor, Tensor]:
    """Second half: hidden states of one prompt's n tokens to its contexts.

    Args:
        projection, connectors: with weights.
        states: layers + 1 tensors (1, n, width) from `hidden_states`; moved to the projection's device and dtype
            where they are not there.
        check: called before every connector block; what it raises ends the pass.

    Returns:
        Video context (1, 1024, Dv) and audio context (1, 1024, Da), every position meaningful.
    """
    weight = projection.video_aggregate_embed.bias  # a quantised layer's weight has no dtype of numbers
    registers = connectors.video_embeddings_connector.learnable_registers
    video, audio = projection([state.to(weight.device, weight.dtype) for state in states])
    return connectors(video.to(registers), audio.to(registers), check=check)
