"""The text side in training: hidden states of prompts to the two contexts, whole batches at a time."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from tools.tiny_world.train.library import REGISTERS, TEXT_TOKENS, Connector, Rope


def _connect(connector: Connector, features: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """`Connector.forward` for tokens that stand in front; without its loop over the batch."""
    batch, length, width = features.shape
    registers = connector.learnable_registers.to(features.dtype)
    every = registers.repeat(-(-tokens // REGISTERS), 1)[None, :tokens].expand(batch, -1, -1)
    head = torch.where(mask[..., None] != 0, features, every[:, :length])
    x = torch.cat([head, every[:, length:]], dim=1)
    rope = _rope(connector, x)
    for block in connector.transformer_1d_blocks:
        x = block(x, rope)
    return rms_norm(x, (width,), eps=connector.config.norm_eps)


_ropes: dict[tuple[int, int, torch.device, torch.dtype], Rope] = {}


def _rope(connector: Connector, x: Tensor) -> Rope:
    """Tables of a length, made once: recorded steps copy nothing from the host."""
    key = (x.shape[1], x.shape[2], x.device, x.dtype)
    if key not in _ropes:
        _ropes[key] = connector._rope(x.shape[1], x)
    return _ropes[key]


def contexts(projection: nn.Module, connectors: nn.Module, joined: Tensor, mask: Tensor,
             tokens: int = TEXT_TOKENS) -> tuple[Tensor, Tensor]:
    """Contexts of both streams.

    Args:
        projection, connectors: modules of the library.
        joined: (B, T, width * (layers + 1)) of `gemma.features`, in the dtype of the modules; T <= tokens.
        mask: (B, T), 1 for tokens, which stand in front.
        tokens: of the contexts; what prompts leave free is registers.

    Returns:
        (B, tokens, video width), (B, tokens, audio width).
    """
    width = projection.config.caption_channels
    video, audio = (linear(joined * (linear.out_features / width) ** 0.5)
                    for linear in (projection.video_aggregate_embed, projection.audio_aggregate_embed))
    return (_connect(connectors.video_embeddings_connector, video, mask, tokens),
            _connect(connectors.audio_embeddings_connector, audio, mask, tokens))
