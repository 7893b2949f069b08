"""A step of Gemma rounds as transformers does: norms and rotary positions of queries and keys, byte for byte."""
from __future__ import annotations

import pytest
import torch
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, apply_rotary_pos_emb

from ltx23_core.models.text.step import HeadNorm, _tables, rotated


class Angles:
    """What stands in for a model: only its rotary tables are asked for."""

    def __init__(self, *tables: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.rotary_emb, self.rotary_emb_local = (lambda *_, made=made: made for made in tables)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "keys", "dim"), [(4, 2, 32), (5, 1, 12), (3, 3, 8)])
def test_queries_and_keys_have_transformers_bytes(heads, keys, dim, dtype):
    torch.manual_seed(0)
    config = Gemma3TextConfig(num_attention_heads=heads, num_key_value_heads=keys, head_dim=dim, hidden_size=16 * heads)
    theirs = Gemma3Attention(config, 0).to(dtype)
    with torch.no_grad():
        for norm in (theirs.q_norm, theirs.k_norm):
            norm.weight.normal_()
        query, key = (torch.randn(1, 7, count, dim, dtype=dtype) for count in (heads, keys))
        angles = torch.rand(1, 7, dim // 2).repeat(1, 1, 2) * 6
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        want = apply_rotary_pos_emb(theirs.q_norm(query), theirs.k_norm(key), cos, sin, unsqueeze_dim=2)
        norm = HeadNorm(theirs, config.rms_norm_eps)
        [table, _] = _tables(Angles((cos, sin), (cos, sin)), query, 7)
        both = rotated(norm(torch.cat((query, key), dim=2)), table)
        assert norm.key_heads == keys
        assert torch.equal(both[:, :, :heads], want[0]) and torch.equal(both[:, :, heads:], want[1])
        assert torch.equal(rotated(norm(key), table), want[1])  # the question's keys come alone
