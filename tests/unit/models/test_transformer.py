"""The transformer beyond the goldens: sharing between passes is exact, interruption comes within a block."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.geometry import audio_positions, video_grid, video_positions
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.ops.attention import BACKENDS, PACKAGES, attention, attention_backend, mask_bias


@pytest.fixture(scope="module")
def setting(tiny_pipeline):
    component = tiny_pipeline.component("transformer")
    tiny_pipeline.residency.use(component)
    model, config = component.module, tiny_pipeline.transformer_config
    generator = torch.Generator().manual_seed(3)
    grid = video_grid(96, 64, 9)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    video, audio = (random(1, n, s.in_channels) for n, s in ((grid.tokens, config.video), (9, config.audio)))
    texts = [random(1, 32, s.width) for s in (config.video, config.audio) * 2]
    tables = model.tables(video_positions(grid, 24.0), audio_positions(9), torch.float32)
    return model, video, audio, texts, tables


def inputs(video, audio, sigma=0.6):
    scalar = torch.full((1,), sigma)
    return StreamInput(video, scalar, scalar[:, None]), StreamInput(audio, scalar, scalar[:, None])


@torch.no_grad()
def test_passes_that_share_a_prefix_equal_separate_passes_bit_for_bit(setting):
    model, video, audio, (v, a, nv, na), tables = setting
    skip = frozenset((2,))
    passes = [Pass(v, a), Pass(nv, na), Pass(v, a, Perturbation(skip, skip)), Pass(v, a, Perturbation(cross=True))]
    together = model(*inputs(video, audio), passes, tables)
    for given, both in zip(passes, together, strict=True):
        [alone] = model(*inputs(video, audio), [given], tables)
        assert torch.equal(alone[0], both[0]) and torch.equal(alone[1], both[1])


@torch.no_grad()
def test_shared_prefix_saves_block_runs(setting):
    model, video, audio, (v, a, *_), tables = setting
    skip, calls = frozenset((2,)), []
    model(*inputs(video, audio), [Pass(v, a), Pass(v, a, Perturbation(skip, skip))], tables, lambda: calls.append(1))
    layers = len(model.transformer_blocks)
    assert len(calls) == layers + (layers - 2)  # the perturbed pass runs from block 2 on only


@torch.no_grad()
def test_distinct_timesteps_equal_one_per_token(setting):
    model, video, audio, (v, a, *_), tables = setting
    index = torch.arange(video.shape[1]) % 2
    values = torch.tensor([[0.0, 0.6]])
    sigma = torch.full((1,), 0.6)
    [few] = model(StreamInput(video, sigma, values, index), inputs(video, audio)[1], [Pass(v, a)], tables)
    [full] = model(StreamInput(video, sigma, values[:, index]), inputs(video, audio)[1], [Pass(v, a)], tables)
    for one, other in zip(few, full, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_check_interrupts_within_one_block(setting):
    model, video, audio, (v, a, *_), tables = setting

    class Stop(Exception):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        model(*inputs(video, audio), [Pass(v, a)], tables, check)
    assert len(calls) == 2


@torch.no_grad()
def test_disabled_stream_still_feeds_the_other(setting):
    model, video, audio, (v, a, *_), tables = setting
    given, sound = inputs(video, audio)
    off = StreamInput(sound.latent, sound.sigma, sound.timesteps, enabled=False)
    [(on_video, _)] = model(given, sound, [Pass(v, a)], tables)
    [(off_video, _)] = model(given, off, [Pass(v, a)], tables)
    assert not torch.allclose(on_video, off_video, atol=1e-3)


@pytest.mark.parametrize("name", [n for n in BACKENDS if n not in ("cudnn", "efficient", *PACKAGES)])
def test_backends_agree_with_the_formula(name):
    query, key, value = (torch.randn(2, 3, n, 16) for n in (5, 7, 7))
    want = torch.softmax(query.double() @ key.double().mT / 4, -1) @ value.double()
    assert torch.allclose(attention_backend(name)(query, key, value, None).double(), want, atol=1e-5)


def test_mask_bias_is_the_log_and_hides_zero():
    weights = torch.tensor([[1.0, 0.5, 0.0]])
    bias = mask_bias(weights, torch.float32)
    assert bias[0, 0] == 0 and bias[0, 1].item() == pytest.approx(-0.6931, abs=1e-4)
    value = torch.randn(1, 1, 3, 4)
    out = attention(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 3, 4), value, bias[None, None])
    assert torch.allclose(out[0, 0, 0], (2 * value[0, 0, 0] + value[0, 0, 1]) / 3, atol=1e-6)
