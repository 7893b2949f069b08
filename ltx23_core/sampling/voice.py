"""Guidance towards a reference voice (spec/10): so many times what the voice's tokens change."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..models.transformer.inputs import STREAMS, Pass, StreamInput, StreamTables
from ..models.transformer.model import Transformer
from .state import StreamState, to_denoised


class VoiceGuidance:
    """One more conditional pass, in which the audio stream ends before the reference voice.

    Args:
        transformer: on its device.
        scale: of the difference, above 0.
        audio: state of the audio stream; its own clip is shorter than what it holds.
        tables: of both streams with the voice.
    """

    def __init__(self, transformer: Transformer, scale: float, audio: StreamState,
                 tables: tuple[StreamTables | None, StreamTables | None]) -> None:
        self._transformer, self._scale, self._count = transformer, scale, audio.clip_tokens
        own = audio.positions[:, :, :audio.clip_tokens]
        self._tables = tables[0], transformer.tables(None, own, transformer.proj_out.bias.dtype)[1]

    def without(self, inputs: dict[str, StreamInput], cond: Pass,
                check: Callable[[], None] | None) -> dict[str, Tensor]:
        """x0 of the conditional pass without the voice, by stream; the audio's is shorter: (B, clip tokens, C)."""
        audio = inputs["audio"]
        index = None if audio.index is None else audio.index[:self._count]
        short = {**inputs, "audio": replace(audio, latent=audio.latent[:, :self._count], index=index)}
        [velocities] = self._transformer(*(short.get(name) for name in STREAMS), [cond], self._tables, check)
        return {name: to_denoised(short[name].latent, velocity, short[name].token_timesteps)
                for name, velocity in zip(STREAMS, velocities, strict=True) if name in short and velocity is not None}

    def applied(self, guided: Tensor, cond: Tensor, plain: Tensor) -> Tensor:
        """The guided x0 and so many times what the voice changed; the voice's own tokens are held anyway."""
        count = plain.shape[1]
        moved = guided.float()
        moved[:, :count] += self._scale * (cond[:, :count].float() - plain.float())
        return moved.to(guided.dtype)
