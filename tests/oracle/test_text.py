"""Feature extractor and connectors against diffusers; Gemma's hidden states against transformers' own padded run."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.config import TEXT_TOKENS
from ltx23_core.models.text.gemma import hidden_states
from ltx23_core.prompt.encode import contexts, features

from .renames import CONNECTORS, TEXT_PROJECTION, renamed
from .support import DIFFUSERS, randn, random_module, same

# Gemma's width and states; heads, head dims (video, audio); layers of the connectors; longest position; theta
CONNECTOR_SIZES = {
    "narrow text": (20, 5, (3, 5), (14, 6), (1, 3), 4096, 10000.0),
    "wide text": (72, 3, (8, 2), (4, 10), (3, 1), 1500, 3000.0),
}


def connector_modules(size: str) -> tuple[torch.nn.Module, torch.nn.Module, dict]:
    """Our projection and connectors, and the options of diffusers' module."""
    width, states, heads, dims, layers, limit, theta = CONNECTOR_SIZES[size]
    video, audio = (h * d for h, d in zip(heads, dims, strict=True))
    projection = random_module("text_projection", {"caption_channels": width, "in_features": width * states,
                                                   "video_features": video, "audio_features": audio}, seed=1)
    connectors = random_module("connectors", {
        "connector_num_layers": layers[0], "audio_connector_num_layers": layers[1],
        "connector_num_attention_heads": heads[0], "audio_connector_num_attention_heads": heads[1],
        "connector_attention_head_dim": dims[0], "audio_connector_attention_head_dim": dims[1],
        "connector_positional_embedding_max_pos": [limit], "positional_embedding_theta": theta}, seed=2)
    options = {"caption_channels": width, "text_proj_in_factor": states, "connector_rope_base_seq_len": limit,
               "rope_theta": theta, "rope_type": "split", "per_modality_projections": True, "proj_bias": True,
               "video_hidden_dim": video, "audio_hidden_dim": audio, "video_gated_attn": True, "audio_gated_attn": True}
    for kind, h, d, n in zip(("video", "audio"), heads, dims, layers, strict=True):
        options |= {f"{kind}_connector_num_attention_heads": h, f"{kind}_connector_attention_head_dim": d,
                    f"{kind}_connector_num_layers": n}
    return projection, connectors, options


@pytest.mark.parametrize("size", CONNECTOR_SIZES)
def test_connectors(size: str) -> None:
    pytest.importorskip("diffusers", reason=DIFFUSERS)
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    projection, connectors, options = connector_modules(size)
    theirs = LTX2TextConnectors(**options).eval()
    theirs.load_state_dict(renamed(projection.state_dict(), TEXT_PROJECTION)
                           | renamed(connectors.state_dict(), CONNECTORS), strict=True)
    states = randn(3, options["text_proj_in_factor"], 2, TEXT_TOKENS, options["caption_channels"])
    tokens = (31, 200)  # left padded: more than one round of registers, and less
    mask = torch.stack([torch.arange(TEXT_TOKENS) >= TEXT_TOKENS - n for n in tokens]).long()
    want = theirs(states.permute(1, 2, 3, 0), mask)
    got = connectors(*projection(states, mask), mask)
    for kind, mine, other in zip(("video", "audio"), got, want[:2], strict=True):
        same(f"{size}: {kind} context", mine, other)
    for row, n in enumerate(tokens):  # what the pipeline runs: the tokens alone, without padding and mask
        alone = contexts(connectors, *features(projection, states[:, row:row + 1, TEXT_TOKENS - n:]))
        for kind, mine, other in zip(("video", "audio"), alone, want[:2], strict=True):
            same(f"{size}: {kind} context of {n} tokens alone", mine, other[row:row + 1])


# layers, width, inner width, heads, key heads, head dim, window, every n-th layer global, vocabulary, tokens
GEMMA_SIZES = {
    "deep": (8, 24, 40, 3, 1, 10, 16, 3, 90, 70),
    "wide": (3, 80, 56, 4, 4, 8, 200, 2, 300, 500),
}


@pytest.mark.parametrize("size", GEMMA_SIZES)
def test_gemma_hidden_states(size: str) -> None:
    from transformers import Gemma3TextConfig, Gemma3TextModel
    layers, width, inner, heads, keys, dim, window, every, vocabulary, tokens = GEMMA_SIZES[size]
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    fields = {
        "model_type": "gemma3_text", "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": dim,
        "query_pre_attn_scalar": dim + 2, "sliding_window": window, "layer_types": kinds, "vocab_size": vocabulary,
        "pad_token_id": 0, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7000.0}}}
    ours = random_module("text_encoder", {"model_type": "gemma3", "text_config": fields})
    theirs = Gemma3TextModel(Gemma3TextConfig(**fields)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = torch.randint(1, vocabulary, (tokens,), generator=torch.Generator().manual_seed(5))
    padded, mask = torch.zeros(2, 1, TEXT_TOKENS, dtype=torch.int64)
    padded[0, -tokens:], mask[0, -tokens:] = ids, 1
    want = theirs(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
    got = hidden_states(ours, ids.tolist())
    assert len(got) == len(want) == layers + 1
    for index, (mine, other) in enumerate(zip(got, want, strict=True)):
        same(f"{size}: hidden state {index}", mine, other[:, -tokens:])
