"""The two text connectors: features of a prompt's tokens to what the transformer attends to (spec/03 §4)."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ...config import REGISTERS, TEXT_TOKENS, ConnectorConfig
from ...ops.rope import Rope, rope_tables
from ..transformer.attention import Attention
from ..transformer.feed_forward import FeedForward


class ConnectorBlock(nn.Module):
    """Self attention and feed-forward, each behind an RMS norm without weights."""

    def __init__(self, config: ConnectorConfig) -> None:
        """Build ``attn1`` and ``ff`` of one block."""
        super().__init__()
        self.eps = config.norm_eps
        self.attn1 = Attention(config.width, config.width, config.heads, config.head_dim, config.norm_eps)
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """(B, T, W) -> (B, T, W); every position attends to every other."""
        x = x + self.attn1(rms_norm(x, x.shape[-1:], eps=self.eps), rope=rope)
        return x + self.ff(rms_norm(x, x.shape[-1:], eps=self.eps))


def fill_with_registers(features: Tensor, mask: Tensor | None, registers: Tensor, length: int) -> Tensor:
    """Tokens first, in their order, then registers: position p without a token takes register p mod R.

    Args:
        features: (B, T, W), T <= length.
        mask: (B, T), non-zero for tokens; None: all are tokens.
        registers: (R, W).
        length: positions of the result.

    Returns:
        (B, length, W) in the dtype of ``features``.
    """
    positions = torch.arange(length, device=features.device)
    filled = registers.to(features.dtype)[positions % len(registers)].repeat(len(features), 1, 1)
    for row, tokens in enumerate(features):
        if mask is not None:
            tokens = tokens[mask[row] != 0]
        filled[row, :len(tokens)] = tokens
    return filled


class Connector(nn.Module):
    """One stream's connector: registers, blocks with 1-D rotary positions, output norm without weights."""

    def __init__(self, config: ConnectorConfig) -> None:
        """Build the registers and the blocks of one stream."""
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.empty(REGISTERS, config.width))
        self.transformer_1d_blocks = nn.ModuleList()
        for _ in range(config.layers):
            self.transformer_1d_blocks.append(ConnectorBlock(config))

    def _rope(self, length: int, like: Tensor) -> Rope:
        """Tables for whole positions 0, 1, …: unlike latent tokens, text has no extent, so no middles."""
        positions = torch.arange(length, dtype=torch.float32, device=like.device)[None, None]  # (1, 1, length)
        config = self.config
        return rope_tables(positions, config.width, config.max_pos, config.rope_theta, like.dtype)

    def forward(self, features: Tensor, mask: Tensor | None = None, length: int = TEXT_TOKENS,
                check: Callable[[], None] | None = None) -> Tensor:
        """(B, T, W), mask (B, T) or None -> (B, length, W), every position meaningful. See `TextConnectors`."""
        x = fill_with_registers(features, mask, self.learnable_registers, length)
        rope = self._rope(length, x)
        for block in self.transformer_1d_blocks:
            if check is not None:
                check()
            x = block(x, rope)
        return rms_norm(x, x.shape[-1:], eps=self.config.norm_eps)


class TextConnectors(nn.Module):
    """The video and the audio connector."""

    def __init__(self, video: ConnectorConfig, audio: ConnectorConfig) -> None:
        """Build both; each takes its own stream's configuration."""
        super().__init__()
        self.video_embeddings_connector = Connector(video)
        self.audio_embeddings_connector = Connector(audio)

    def forward(self, video: Tensor, audio: Tensor, mask: Tensor | None = None, length: int = TEXT_TOKENS,
                check: Callable[[], None] | None = None) -> tuple[Tensor, Tensor]:
        """Contexts of both streams. They need no mask: registers fill what tokens leave free.

        Args:
            video: features (B, T, Dv), T <= length.
            audio: features (B, T, Da).
            mask: (B, T), non-zero for tokens, wherever the padding is; None: there is no padding.
            length: positions of a context.
            check: called before every block; what it raises ends the pass.

        Returns:
            Video context (B, length, Dv) and audio context (B, length, Da).
        """
        return (self.video_embeddings_connector(video, mask, length, check),
                self.audio_embeddings_connector(audio, mask, length, check))
