"""What passes share, and what nobody reads: exact, and really not computed."""
from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from ltx23_core.geometry import audio_positions, video_grid, video_positions
from ltx23_core.models.transformer import rows
from ltx23_core.models.transformer.attention import Attention
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput

BOTH = frozenset(("video", "audio"))
VIDEO, AUDIO = frozenset(("video",)), frozenset(("audio",))
STG = 2


@pytest.fixture(scope="module")
def model(tiny_pipeline):
    component = tiny_pipeline.component("transformer")
    tiny_pipeline.residency.use(component)
    return component.module


@pytest.fixture(scope="module")
def run(model):
    config, grid = model.config, video_grid(96, 64, 9)
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    latents = random(1, grid.tokens, config.video.in_channels), random(1, 9, config.audio.in_channels)
    v, a, nv, na = (random(1, 32, s.width) for s in (config.video, config.audio) * 2)
    tables = model.tables(video_positions(grid, 24.0), audio_positions(9), torch.float32)
    index = torch.arange(grid.tokens) % 2
    sigma = torch.full((1,), 0.6)
    streams = (StreamInput(latents[0], sigma, torch.tensor([[0.0, 0.6]]), index),
               StreamInput(latents[1], sigma, sigma[:, None]))
    skip = frozenset((STG,))
    passes = {"cond": Pass(v, a), "uncond": Pass(nv, na), "perturbed": Pass(v, a, Perturbation(skip, skip)),
              "modality": Pass(v, a, Perturbation(cross=True))}

    @torch.no_grad()
    def forward(*given):
        return model(*streams, list(given), tables)

    return forward, passes


@contextmanager
def counted(model):
    """How often each module is called, by name; those of a block without its number: ``(block, name)``."""
    counts = Counter()
    hooks = []
    for name, part in model.named_modules():
        if name.startswith("transformer_blocks.") and name.count(".") > 1:
            _, block, inner = name.split(".", 2)
            hooks.append(part.register_forward_pre_hook(
                lambda *_, key=(int(block), inner): counts.update([key])))
    yield counts
    for hook in hooks:
        hook.remove()


def with_reads(given, reads):
    return Pass(given.video_context, given.audio_context, given.perturbation, reads=reads)


def test_every_pass_is_what_it_is_alone(run):
    forward, passes = run
    together = forward(*passes.values())
    for (name, given), both in zip(passes.items(), together, strict=True):
        [alone] = forward(given)
        assert torch.equal(alone[0], both[0]) and torch.equal(alone[1], both[1]), name


def test_the_first_self_attention_of_all_passes_is_one(model, run):
    forward, passes = run
    with counted(model) as counts:
        forward(*passes.values())
    assert counts[0, "attn1"] == counts[0, "audio_attn1"] == 1
    assert counts[0, "attn2"] == 2 and counts[0, "audio_to_video_attn"] == 2, "two prompts; one pass does not cross"
    assert counts[0, "ff"] == 3 and counts[1, "attn1"] == 3 and counts[STG, "attn1"] == 4


def test_a_prompt_gives_keys_and_values_once_a_block(model, run, monkeypatch):
    forward, passes = run
    calls, original = Counter(), Attention.keys_values

    def counting(attention, context, rope=None):
        calls.update([id(attention)])
        return original(attention, context, rope)

    monkeypatch.setattr(Attention, "keys_values", counting)
    forward(*passes.values())
    assert {calls[id(block.attn2)] for block in model.transformer_blocks} == {2}, "two prompts, four passes"
    assert {calls[id(block.audio_attn2)] for block in model.transformer_blocks} == {2}


def test_what_a_pass_does_not_read_is_not_computed(model, run):
    forward, passes = run
    full = dict(zip(passes, forward(*passes.values()), strict=True))
    with counted(model) as counts:
        [(nothing, sound)] = forward(with_reads(passes["modality"], AUDIO))
    assert nothing is None and torch.equal(sound, full["modality"][1])
    layers = range(len(model.transformer_blocks))
    assert counts[0, "ff"] == 0 and not any(counts[block, "attn1"] for block in layers[1:])
    assert all(counts[block, "audio_attn1"] for block in layers)
    reads = {"cond": BOTH, "uncond": VIDEO, "perturbed": AUDIO, "modality": VIDEO}
    for name, (video, audio) in zip(passes, forward(*(with_reads(passes[n], reads[n]) for n in passes)), strict=True):
        if "video" in reads[name]:
            assert torch.equal(video, full[name][0]), name
        if "audio" in reads[name]:
            assert torch.equal(audio, full[name][1]), name


@pytest.mark.parametrize(("reads", "unread"), [
    (VIDEO, ("video_to_audio_attn", "audio_ff")), (AUDIO, ("audio_to_video_attn", "ff"))])
def test_the_unread_tail_of_the_last_block_is_left_out(model, run, reads, unread):
    forward, passes = run
    [full] = forward(passes["cond"])
    with counted(model) as counts:
        [got] = forward(with_reads(passes["cond"], reads))
    last = len(model.transformer_blocks) - 1
    assert all(counts[last, name] == 0 for name in unread) and all(counts[last - 1, name] == 1 for name in unread)
    which = 0 if reads == VIDEO else 1
    assert torch.equal(got[which], full[which]) and got[1 - which] is None


def test_rows_of_all_blocks_in_one_go_are_those_of_each(run, monkeypatch):
    forward, passes = run
    at_once = forward(*passes.values())
    monkeypatch.setattr(rows, "MOST_AT_ONCE", 0)
    one_by_one = forward(*passes.values())
    for one, other in zip(at_once, one_by_one, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
