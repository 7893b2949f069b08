"""The text side in training: hidden states of prompts to the two contexts, whole batches at a time."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from tools.tiny_world.train.library import REGISTERS, TEXT_TOKENS, Connector


def _connect(connector: Connector, features: Tensor, mask: Tensor) -> Tensor:
    """`Connector.forward` for tokens that stand in front; without its loop over the batch."""
    batch, length, width = features.shape
    registers = connector.learnable_registers.to(features.dtype)
    every = registers.repeat(TEXT_TOKENS // REGISTERS, 1)[None].expand(batch, -1, -1)
    head = torch.where(mask[..., None] != 0, features, every[:, :length])
    x = torch.cat([head, every[:, length:]], dim=1)
    rope = connector._rope(TEXT_TOKENS, x)
    for block in connector.transformer_1d_blocks:
        x = block(x, rope)
    return rms_norm(x, (width,), eps=connector.config.norm_eps)


def contexts(projection: nn.Module, connectors: nn.Module, joined: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Contexts of both streams.

    Args:
        projection, connectors: modules of the library.
        joined: (B, T, width * (layers + 1)) of `gemma.features`, in the dtype of the modules; T <= 1024.
        mask: (B, T), 1 for tokens, which stand in front.

    Returns:
        (B, 1024, video width), (B, 1024, audio width).
    """
    width = projection.config.caption_channels
    video, audio = (linear(joined * (linear.out_features / width) ** 0.5)
                    for linear in (projection.video_aggregate_embed, projection.audio_aggregate_embed))
    return (_connect(connectors.video_embeddings_connector, video, mask),
            _connect(connectors.audio_embeddings_connector, audio, mask))
