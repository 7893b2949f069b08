"""From a prompt to the two contexts of the transformer, in three parts.

`gemma.hidden_states` needs only Gemma, `features` only the projection, `contexts` only the connectors: a pipeline may
release the one before it loads the next. Every result depends on the prompt alone (spec/03 §5).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.text.connector import TextConnectors
from ..models.text.feature_extractor import FeatureExtractor

Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def features(projection: FeatureExtractor, states: Sequence[Tensor]) -> Pair:
    """Second part: hidden states of one prompt's n tokens to the features of both streams.

    Args:
        projection: with weights.
        states: layers + 1 tensors (1, n, width) from `hidden_states`, on any device: they come to the projection's one
            by one.

    Returns:
        (1, n, Dv) and (1, n, Da) on the projection's device.
    """
    return projection(states)


@torch.no_grad()
def contexts(connectors: TextConnectors, video: Tensor, audio: Tensor, check: Callable[[], None] | None = None) -> Pair:
    """Third part: features of one prompt to its contexts.

    Args:
        connectors: with weights.
        video, audio: of `features`; moved to the connectors' device and dtype where they are not there.
        check: called before every connector block; what it raises ends the pass.

    Returns:
        Video context (1, 1024, Dv) and audio context (1, 1024, Da), every position meaningful.
    """
    registers = connectors.video_embeddings_connector.learnable_registers
    return connectors(video.to(registers), audio.to(registers), check=check)
