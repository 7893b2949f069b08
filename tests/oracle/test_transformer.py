"""Positions, rotary tables and the whole transformer against diffusers, every token of a stream at one timestep.

Not compared, since diffusers differs from the official code there (goldens' README): per-token timesteps, attention
masks with values between 0 and 1, streams at different sigmas, and head counts that differ between the streams.
"""
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx23_core.config import TransformerConfig
from ltx23_core.geometry import VideoGrid, audio_positions, video_positions
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.ops.attention import mask_bias
from ltx23_core.ops.rope import rope_tables

from .renames import TRANSFORMER, renamed
from .support import DIFFUSERS, randn, random_module, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import LTX2VideoTransformer3DModel

BATCH, TEXT = 2, 40
# layers, heads, head dims (video, audio), channels (in, out; in, out), limits (seconds, rows, columns; seconds),
# theta, scale of the cross-modal gates' timestep, grid, audio tokens, fps, STG blocks
SIZES = {
    "odd": (3, 3, (24, 10), (5, 7), (12, 9), ((20, 2048, 2048), (20,)), 10000.0, 1000.0, (4, 3, 5), 13, 24.0, {1}),
    "audio wider": (5, 6, (10, 14), (16, 16), (8, 8), ((12, 1024, 512), (16,)), 5000.0, 250.0, (2, 1, 7), 29, 29.97,
                    {0, 3}),
    "one head": (2, 1, (64, 32), (3, 3), (4, 4), ((30, 640, 768), (8,)), 20000.0, 1.0, (1, 4, 4), 1, 12.5, {1}),
}


def config(size: str) -> dict:
    """``config.transformer`` in the official form."""
    layers, heads, dims, video, audio, limits, theta, gate, *_ = SIZES[size]
    return {
        "num_layers": layers, "num_attention_heads": heads, "audio_num_attention_heads": heads,
        "attention_head_dim": dims[0], "audio_attention_head_dim": dims[1], "in_channels": video[0],
        "out_channels": video[1], "audio_in_channels": audio[0], "audio_out_channels": audio[1], "norm_eps": 1e-6,
        "positional_embedding_max_pos": list(limits[0]), "audio_positional_embedding_max_pos": list(limits[1]),
        "positional_embedding_theta": theta, "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": gate,
    }


def oracle(size: str) -> LTX2VideoTransformer3DModel:
    """The same architecture in diffusers."""
    layers, heads, dims, video, audio, limits, theta, gate, *_ = SIZES[size]
    return LTX2VideoTransformer3DModel(
        in_channels=video[0], out_channels=video[1], num_attention_heads=heads, attention_head_dim=dims[0],
        cross_attention_dim=heads * dims[0], pos_embed_max_pos=limits[0][0], base_height=limits[0][1],
        base_width=limits[0][2], gated_attn=True, cross_attn_mod=True, audio_in_channels=audio[0],
        audio_out_channels=audio[1], audio_num_attention_heads=heads, audio_attention_head_dim=dims[1],
        audio_cross_attention_dim=heads * dims[1], audio_pos_embed_max_pos=limits[1][0], audio_gated_attn=True,
        audio_cross_attn_mod=True, num_layers=layers, rope_theta=theta, cross_attn_timestep_scale_multiplier=gate,
        rope_type="split", use_prompt_embeddings=False, perturbed_attn=True).eval()


def positions(size: str) -> tuple[Tensor, Tensor]:
    grid, tokens, fps = SIZES[size][8:11]
    return video_positions(VideoGrid(*grid), fps), audio_positions(tokens)


@pytest.mark.parametrize("size", SIZES)
def test_positions_and_rotary_tables(size: str) -> None:
    model, cfg = oracle(size), TransformerConfig.from_dict(config(size))
    grid, tokens, fps = SIZES[size][8:11]
    video, audio = positions(size)
    cpu = torch.device("cpu")
    same(f"{size}: video positions", video, model.rope.prepare_video_coords(1, *grid, cpu, fps=fps), bound=0)
    same(f"{size}: audio positions", audio, model.audio_rope.prepare_audio_coords(1, tokens, cpu), bound=0)
    for name, spans, stream, limits, rope in (
            ("video", video, cfg.video, cfg.video.max_pos, model.rope),
            ("audio", audio, cfg.audio, cfg.audio.max_pos, model.audio_rope),
            ("video cross", video[:, :1], cfg.audio, cfg.cross_max_pos, model.cross_attn_rope),
            ("audio cross", audio, cfg.audio, cfg.cross_max_pos, model.cross_attn_audio_rope)):
        got = rope_tables(spans.mean(-1), stream.width, limits, cfg.rope_theta, torch.float32)
        for part, mine, theirs in zip(("cos", "sin"), got, rope(spans), strict=True):
            same(f"{size}: {name} {part}", mine.unflatten(-1, (stream.heads, -1)).transpose(1, 2), theirs)


@pytest.mark.parametrize("size", SIZES)
def test_transformer(size: str) -> None:
    ours, theirs = random_module("transformer", config(size)), oracle(size)
    theirs.load_state_dict(renamed(ours.state_dict(), TRANSFORMER), strict=True)
    video, audio = ours.config.video, ours.config.audio
    spans, blocks = positions(size), SIZES[size][11]
    latents = (randn(1, BATCH, spans[0].shape[2], video.in_channels), randn(2, BATCH, spans[1].shape[2],
                                                                          audio.in_channels))
    contexts = (randn(3, BATCH, TEXT, video.width), randn(4, BATCH, TEXT, audio.width))
    sigma = torch.tensor([0.9, 0.35])
    mask = torch.zeros(BATCH, TEXT, dtype=torch.int64)
    mask[0, :17] = mask[1, 5:] = 1
    bias = mask_bias(mask, torch.float32)[:, None, None]
    stg = Perturbation(frozenset(blocks), frozenset(blocks))
    # name -> our pass, what diffusers is told. All passes run in one call: what they share is part of the test.
    cases = {
        "plain": (Pass(*contexts), {}),
        "text mask": (Pass(*contexts, text_bias=bias), {"mask": mask}),
        "STG": (Pass(*contexts, stg), {"spatio_temporal_guidance_blocks": sorted(blocks)}),
        "STG, text mask": (Pass(*contexts, stg, bias),
                           {"spatio_temporal_guidance_blocks": sorted(blocks), "mask": mask}),
        "modality": (Pass(*contexts, Perturbation(cross=True)), {"isolate_modalities": True}),
    }
    streams = (StreamInput(x, sigma, sigma[:, None]) for x in latents)
    results = ours(*streams, [given for given, _ in cases.values()], ours.tables(*spans, torch.float32))
    coordinates = (span.expand(BATCH, -1, -1, -1) for span in spans)
    known = dict(zip(("video_coords", "audio_coords"), coordinates, strict=True))
    for (name, (_, options)), got in zip(cases.items(), results, strict=True):
        text = options.pop("mask", None)
        want = theirs(*latents, *contexts, timestep=sigma * 1000, sigma=sigma * 1000, encoder_attention_mask=text,
                      audio_encoder_attention_mask=text, use_cross_timestep=True, return_dict=False, **known, **options)
        for kind, mine, other in zip(("video", "audio"), got, want, strict=True):
            same(f"{size}, {name}: {kind}", mine, other)
