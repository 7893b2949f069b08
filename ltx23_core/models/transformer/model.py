"""The dual-stream transformer: velocities of video and audio latents for all guidance passes at one sigma (spec/02)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ...config import StreamConfig, TransformerConfig
from ...ops.attention import AttentionFunction, mask_bias
from ...ops.rope import rope_tables
from .adaln import AdaLayerNormSingle
from .attention import Attention
from .block import BlockInput, Rows, TransformerBlock
from .inputs import Pass, StreamInput, StreamTables

Velocities = tuple["Tensor | None", "Tensor | None"]


class Transformer(nn.Module):
    """LTX-2.3 transformer; parameter names are the official ones."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        video, audio = config.video.width, config.audio.width
        self.patchify_proj = nn.Linear(config.video.in_channels, video)
        self.audio_patchify_proj = nn.Linear(config.audio.in_channels, audio)
        self.adaln_single = AdaLayerNormSingle(video, 9)
        self.audio_adaln_single = AdaLayerNormSingle(audio, 9)
        self.prompt_adaln_single = AdaLayerNormSingle(video, 2)
        self.audio_prompt_adaln_single = AdaLayerNormSingle(audio, 2)
        self.av_ca_video_scale_shift_adaln_single = AdaLayerNormSingle(video, 4)
        self.av_ca_audio_scale_shift_adaln_single = AdaLayerNormSingle(audio, 4)
        self.av_ca_a2v_gate_adaln_single = AdaLayerNormSingle(video, 1)
        self.av_ca_v2a_gate_adaln_single = AdaLayerNormSingle(audio, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.scale_shift_table = nn.Parameter(torch.empty(2, video))
        self.audio_scale_shift_table = nn.Parameter(torch.empty(2, audio))
        self.proj_out = nn.Linear(video, config.video.out_channels)
        self.audio_proj_out = nn.Linear(audio, config.audio.out_channels)

    def set_attention(self, function: AttentionFunction) -> None:
        """Use one attention function (see `ops.attention.attention_backend`) in every attention."""
        for part in self.modules():
            if isinstance(part, Attention):
                part.attend = function

    def tables(self, video_positions: Tensor | None, audio_positions: Tensor | None, dtype: torch.dtype,
               video_mask: Tensor | None = None) -> tuple[StreamTables | None, StreamTables | None]:
        """What is constant over a run: rotary tables and the self-attention bias.

        Args:
            video_positions: float32 (B, 3, Nv, 2) [start, end) in seconds and pixels, or None.
            audio_positions: float32 (B, 1, Na, 2) in seconds, or None.
            dtype: dtype of the tables (the activations').
            video_mask: weights in [0, 1], (B, Nv, Nv), of the video self attention, or None.
        """
        config = self.config

        def stream(positions: Tensor | None, shape: StreamConfig, mask: Tensor | None) -> StreamTables | None:
            if positions is None:
                return None
            middles = positions.float().mean(dim=-1)
            cross = rope_tables(middles[:, :1], config.audio.width, config.audio.heads, config.cross_max_pos,
                                config.rope_theta, dtype)
            return StreamTables(rope_tables(middles, shape.width, shape.heads, shape.max_pos, config.rope_theta, dtype),
                                cross, None if mask is None else mask_bias(mask, dtype)[:, None])

        return stream(video_positions, config.video, video_mask), stream(audio_positions, config.audio, None)

    def _adaln(self, video: StreamInput | None, audio: StreamInput | None,
               tables: tuple[StreamTables | None, StreamTables | None]) -> list[tuple[BlockInput, Tensor] | None]:
        """AdaLN rows of each stream for all blocks, and the embedding that the output head needs."""
        scale = self.config.timestep_scale
        gate_scale = scale * (self.config.av_gate_timestep_scale / scale)
        heads = ((video, audio, tables[0], self.adaln_single, self.prompt_adaln_single,
                  self.av_ca_video_scale_shift_adaln_single, self.av_ca_a2v_gate_adaln_single),
                 (audio, video, tables[1], self.audio_adaln_single, self.audio_prompt_adaln_single,
                  self.av_ca_audio_scale_shift_adaln_single, self.av_ca_v2a_gate_adaln_single))
        out: list[tuple[BlockInput, Tensor] | None] = []
        for own, other, table, adaln, prompt, cross, gate in heads:
            if own is None or table is None:
                out.append(None)
                continue
            rows, embedded = adaln(own.timesteps * scale)
            prompt_rows, _ = prompt(own.sigma[:, None] * scale)
            both = {} if other is None else {
                "cross_rows": cross(own.timesteps * scale)[0],
                "cross_gate": gate(other.sigma[:, None] * gate_scale)[0], "cross_rope": table.cross_rope}
            out.append((BlockInput(rows, prompt_rows, table.rope, own.index, self_bias=table.self_bias,
                                   enabled=own.enabled, **both), embedded))
        return out

    def _head(self, x: Tensor, embedded: Tensor, index: Tensor | None, table: Tensor, projection: nn.Linear) -> Tensor:
        rows = Rows(table, embedded.repeat(1, 1, 2), index)  # both rows are added to the same embedding
        normed = layer_norm(x, x.shape[-1:], None, None, self.config.norm_eps)
        return projection(normed * (1 + rows[1]) + rows[0])

    def forward(self, video: StreamInput | None, audio: StreamInput | None, passes: Sequence[Pass],
                tables: tuple[StreamTables | None, StreamTables | None],
                check: Callable[[], None] | None = None) -> list[Velocities]:
        """Velocities of every guidance pass at one sigma.

        The passes run block by block (each weight is used by all of them before the next is needed), and passes
        share their hidden states up to the first block in which they differ: exact, and the STG pass then costs
        only the blocks from the perturbed one on (spec/08 §2).

        Args:
            video, audio: the streams, or None where absent.
            passes: guidance passes.
            tables: of `tables`.
            check: called once a block and branch; may raise to interrupt.

        Returns:
            Per pass (video velocity (B, Nv, out channels), audio velocity (B, Na, out channels)).
        """
        given, audio_given = self._adaln(video, audio, tables)
        inputs = (given and given[0], audio_given and audio_given[0])
        # One layout whoever made the latent: a product over a transposed view rounds otherwise.
        hidden = (None if video is None else self.patchify_proj(video.latent.contiguous()),
                  None if audio is None else self.audio_patchify_proj(audio.latent.contiguous()))
        branches: list[tuple[list[int], Velocities]] = [(list(range(len(passes))), hidden)]
        for number, block in enumerate(self.transformer_blocks):
            forked: list[tuple[list[int], Velocities]] = []
            for members, states in branches:
                groups: dict[tuple[object, ...], list[int]] = {}
                for member in members:
                    groups.setdefault(passes[member].key(number), []).append(member)
                for group in groups.values():
                    if check is not None:
                        check()
                    lead = passes[group[0]]
                    forked.append((group, block(*states, *inputs, lead.video_context, lead.audio_context,
                                                lead.text_bias, lead.perturbation.at(number), lead.nag)))
            branches = forked
        results: dict[int, Velocities] = {}
        for members, (vx, ax) in branches:
            out = (None if vx is None else self._head(vx, given[1], video.index, self.scale_shift_table, self.proj_out),
                   None if ax is None else self._head(ax, audio_given[1], audio.index, self.audio_scale_shift_table,
                                                      self.audio_proj_out))
            results.update(dict.fromkeys(members, out))
        return [results[i] for i in range(len(passes))]
