"""One dual-stream transformer block (spec/02 §7)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ...config import TransformerConfig
from ...ops.rope import Rope
from .attention import Attention
from .feed_forward import FeedForward
from .nag import NagContext


@dataclass(frozen=True)
class BlockInput:
    """AdaLN rows and tables of one stream; equal for all blocks and passes at one sigma.

    Attributes:
        rows: (B, U, 9 width) of adaln_single; U distinct timesteps.
        prompt_rows: (B, 1, 2 width) of prompt_adaln_single.
        rope: tables of the self attention.
        index: int64 (N,), which of the U timesteps each token has; None where U is 1 or N.
        cross_rows: (B, U, 4 width), cross_gate: (B, 1, width), cross_rope: tables over time; None with one stream.
        self_bias: additive bias of the self attention, or None.
        enabled: False: the stream only serves as keys and values.
    """

    rows: Tensor
    prompt_rows: Tensor
    rope: Rope
    index: Tensor | None = None
    cross_rows: Tensor | None = None
    cross_gate: Tensor | None = None
    cross_rope: Rope | None = None
    self_bias: Tensor | None = None
    enabled: bool = True


class Rows:
    """Modulation rows table + coefficients, gathered to tokens when a row is used."""

    def __init__(self, table: Tensor, coefficients: Tensor, index: Tensor | None) -> None:
        self._rows = table.to(coefficients.dtype) + coefficients.unflatten(-1, (table.shape[0], -1))
        self._index = index

    def __getitem__(self, row: int) -> Tensor:
        """(B, U or N, width)."""
        values = self._rows[:, :, row]
        return values if self._index is None else values[:, self._index]


class _Parts(NamedTuple):
    """The modules and tables of one stream."""

    self_attention: Attention
    text_attention: Attention
    feed_forward: FeedForward
    table: Tensor
    prompt_table: Tensor
    cross_table: Tensor


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift in one pass over x."""
    return torch.addcmul(shift, x, 1 + scale)


class TransformerBlock(nn.Module):
    """Self attention, text attention, both cross-modal attentions, feed-forward; parameter names are official."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        video, audio, eps = config.video, config.audio, config.norm_eps
        self.eps = eps
        v, a = video.width, audio.width
        self.attn1 = Attention(v, v, video.heads, video.head_dim, eps)
        self.attn2 = Attention(v, v, video.heads, video.head_dim, eps)
        self.ff = FeedForward(v)
        self.audio_attn1 = Attention(a, a, audio.heads, audio.head_dim, eps)
        self.audio_attn2 = Attention(a, a, audio.heads, audio.head_dim, eps)
        self.audio_ff = FeedForward(a)
        self.audio_to_video_attn = Attention(v, a, audio.heads, audio.head_dim, eps)
        self.video_to_audio_attn = Attention(a, v, audio.heads, audio.head_dim, eps)
        for name, rows, width in (("scale_shift_table", 9, v), ("audio_scale_shift_table", 9, a),
                                  ("prompt_scale_shift_table", 2, v), ("audio_prompt_scale_shift_table", 2, a),
                                  ("scale_shift_table_a2v_ca_video", 5, v), ("scale_shift_table_a2v_ca_audio", 5, a)):
            self.register_parameter(name, nn.Parameter(torch.empty(rows, width)))

    def _video(self) -> _Parts:
        return _Parts(self.attn1, self.attn2, self.ff, self.scale_shift_table, self.prompt_scale_shift_table,
                      self.scale_shift_table_a2v_ca_video)

    def _audio(self) -> _Parts:
        return _Parts(self.audio_attn1, self.audio_attn2, self.audio_ff, self.audio_scale_shift_table,
                      self.audio_prompt_scale_shift_table, self.scale_shift_table_a2v_ca_audio)

    def _norm(self, x: Tensor) -> Tensor:
        return rms_norm(x, x.shape[-1:], None, self.eps)

    def _attend(self, parts: _Parts, x: Tensor, context: Tensor, given: BlockInput, rows: Rows,
                text_bias: Tensor | None, skip: bool, nag: NagContext | None) -> Tensor:
        """Self attention and text attention of one stream."""
        normed = _modulate(self._norm(x), rows[1], rows[0])
        x = torch.addcmul(x, parts.self_attention(normed, rope=given.rope, bias=given.self_bias, skip=skip), rows[2])
        prompt = Rows(parts.prompt_table, given.prompt_rows, None)
        query = _modulate(self._norm(x), rows[7], rows[6])
        pushed = nag and (nag.nag, _modulate(nag.context, prompt[1], prompt[0]))
        attended = parts.text_attention(query, _modulate(context, prompt[1], prompt[0]), bias=text_bias, nag=pushed)
        return torch.addcmul(x, attended, rows[8])

    def _cross(self, video: Tensor, audio: Tensor, given: BlockInput, audio_given: BlockInput) -> tuple[Tensor, Tensor]:
        """Both cross-modal attentions; each reads the state before either was added."""
        assert given.cross_rows is not None and audio_given.cross_rows is not None
        normed, audio_normed = self._norm(video), self._norm(audio)
        v = Rows(self.scale_shift_table_a2v_ca_video[:4], given.cross_rows, given.index)
        a = Rows(self.scale_shift_table_a2v_ca_audio[:4], audio_given.cross_rows, audio_given.index)
        new_video, new_audio = video, audio
        if given.enabled:
            gate = Rows(self.scale_shift_table_a2v_ca_video[4:], given.cross_gate, None)[0]
            new_video = torch.addcmul(video, self.audio_to_video_attn(
                _modulate(normed, v[0], v[1]), _modulate(audio_normed, a[0], a[1]),
                given.cross_rope, audio_given.cross_rope), gate)
        if audio_given.enabled:
            gate = Rows(self.scale_shift_table_a2v_ca_audio[4:], audio_given.cross_gate, None)[0]
            new_audio = torch.addcmul(audio, self.video_to_audio_attn(
                _modulate(audio_normed, a[2], a[3]), _modulate(normed, v[2], v[3]),
                audio_given.cross_rope, given.cross_rope), gate)
        return new_video, new_audio

    def forward(self, video: Tensor | None, audio: Tensor | None, given: BlockInput | None,
                audio_given: BlockInput | None, video_context: Tensor | None, audio_context: Tensor | None,
                text_bias: Tensor | None = None, skip: tuple[bool, bool, bool] = (False, False, False),
                nag: tuple[NagContext | None, NagContext | None] = (None, None)) -> (
                    tuple[Tensor | None, Tensor | None]):
        """Update both streams for one pass.

        Args:
            video, audio: hidden states (B, N, width), or None for an absent stream; never changed in place.
            given, audio_given: AdaLN rows and tables of each stream.
            video_context, audio_context: prompt (B, S, width).
            text_bias: additive bias over text tokens, or None.
            skip: (video self attention, audio self attention, both crosses), see `Perturbation.at`.
            nag: normalized attention guidance in the text attention of (video, audio), or None.

        Returns:
            The new hidden states.
        """
        streams = []
        for x, parts, inputs, context, skip_self, away in (
                (video, self._video(), given, video_context, skip[0], nag[0]),
                (audio, self._audio(), audio_given, audio_context, skip[1], nag[1])):
            rows = Rows(parts.table, inputs.rows, inputs.index) if inputs is not None else None
            if x is not None and inputs.enabled:
                x = self._attend(parts, x, context, inputs, rows, text_bias, skip_self, away)
            streams.append((x, rows))
        (video, rows), (audio, audio_rows) = streams
        if video is not None and audio is not None and not skip[2]:
            video, audio = self._cross(video, audio, given, audio_given)
        if video is not None and given.enabled:
            video = torch.addcmul(video, self.ff(_modulate(self._norm(video), rows[4], rows[3])), rows[5])
        if audio is not None and audio_given.enabled:
            hidden = self.audio_ff(_modulate(self._norm(audio), audio_rows[4], audio_rows[3]))
            audio = torch.addcmul(audio, hidden, audio_rows[5])
        return video, audio
