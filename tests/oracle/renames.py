"""Official names -> names of diffusers, as data (spec/01 §3.1). Patterns are tried in order, each on the whole name."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Table = Sequence[tuple[str, str]]

_NORMS: Table = ((r"\bq_norm\b", "norm_q"), (r"\bk_norm\b", "norm_k"))

TRANSFORMER: Table = (
    (r"^audio_patchify_proj\b", "audio_proj_in"), (r"^patchify_proj\b", "proj_in"),
    (r"^audio_prompt_adaln_single\b", "audio_prompt_adaln"), (r"^prompt_adaln_single\b", "prompt_adaln"),
    (r"^av_ca_video_scale_shift_adaln_single\b", "av_cross_attn_video_scale_shift"),
    (r"^av_ca_audio_scale_shift_adaln_single\b", "av_cross_attn_audio_scale_shift"),
    (r"^av_ca_a2v_gate_adaln_single\b", "av_cross_attn_video_a2v_gate"),
    (r"^av_ca_v2a_gate_adaln_single\b", "av_cross_attn_audio_v2a_gate"),
    (r"^audio_adaln_single\b", "audio_time_embed"), (r"^adaln_single\b", "time_embed"),
    (r"\bscale_shift_table_a2v_ca_video\b", "video_a2v_cross_attn_scale_shift_table"),
    (r"\bscale_shift_table_a2v_ca_audio\b", "audio_a2v_cross_attn_scale_shift_table"),
    *_NORMS,
)

CONNECTORS: Table = (
    (r"^video_embeddings_connector\b", "video_connector"), (r"^audio_embeddings_connector\b", "audio_connector"),
    (r"\btransformer_1d_blocks\b", "transformer_blocks"), *_NORMS,
)

TEXT_PROJECTION: Table = ((r"^video_aggregate_embed\b", "video_text_proj_in"),
                          (r"^audio_aggregate_embed\b", "audio_text_proj_in"))

# Generators keep `.resblocks.N.acts1.M.downsample.lowpass.filter` and the like one level flatter in diffusers.
VOCODER: Table = ((r"\.ups\.", ".upsamplers."), (r"\bresblocks\b", "resnets"), (r"\bconv_pre\b", "conv_in"),
                  (r"\bconv_post\b", "conv_out"), (r"\bact_post\b", "act_out"),
                  (r"\bdownsample\.lowpass\b", "downsample"))


def video_encoder(steps: int) -> Table:
    """The table for an encoder with this many down-sampling steps (4 in 2.3)."""
    rows = [(rf"^down_blocks\.{2 * steps}\.", "mid_block.")]
    for step in range(steps):
        rows += [(rf"^down_blocks\.{2 * step + 1}\.", f"DOWN.{step}.downsamplers.0."),
                 (rf"^down_blocks\.{2 * step}\.", f"DOWN.{step}.")]
    return (*rows, (r"^DOWN\.", "down_blocks."), (r"\bres_blocks\b", "resnets"))


def video_decoder(steps: int) -> Table:
    """The table for a decoder with this many up-sampling steps (4 in 2.3)."""
    rows = [(r"^up_blocks\.0\.", "mid_block.")]
    for step in range(steps):
        rows += [(rf"^up_blocks\.{2 * step + 1}\.", f"UP.{step}.upsamplers.0."),
                 (rf"^up_blocks\.{2 * step + 2}\.", f"UP.{step}.")]
    return (*rows, (r"^UP\.", "up_blocks."), (r"\bres_blocks\b", "resnets"))


def renamed(state: Mapping[str, Tensor], table: Table = ()) -> dict[str, Tensor]:
    """A state dict under the names of diffusers."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    assert len(result) == len(state), "two tensors got one name"
    return result
