"""Two ways to one result give the same bytes: tokens and latents have one layout, whoever made them."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from ltx23_core.geometry import audio_positions, video_grid, video_positions
from ltx23_core.models.latent_upsampler import upsample
from ltx23_core.models.transformer.inputs import Pass, StreamInput
from ltx23_core.plan.latents import Latents
from ltx23_core.plan.recipes import RECIPES
from ltx23_core.plan.windows import Windows
from ltx23_core.sampling.state import (
    StreamState,
    audio_to_tokens,
    tokens_to_audio,
    tokens_to_video,
    video_to_tokens,
)

SIZE = {"width": 128, "height": 64, "frames": 25, "fps": 24.0, "seed": 3}


@pytest.fixture(scope="module")
def pair(tiny_pipeline):
    return tiny_pipeline.encode("a boat on a lake", "noise")


@pytest.fixture(params=(1, 2))
def threads(request) -> Iterator[int]:
    """Products are cut by threads, and round by how they are cut."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def steps(recipe: str) -> dict[str, int]:
    return {} if RECIPES[recipe].stages[0].sigmas else {"steps": 2}


def same(one: Latents, other: Latents) -> bool:
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


def test_conversions_make_contiguous_tensors():
    grid = video_grid(96, 64, 17)
    latent = torch.randn(2, 8, grid.frames, grid.height, grid.width)
    sound = torch.randn(2, 3, 5, 4)
    tokens, heard = video_to_tokens(latent), audio_to_tokens(sound)
    back, again = tokens_to_video(tokens, grid), tokens_to_audio(heard, 3)
    assert torch.equal(back, latent) and torch.equal(again, sound)
    assert all(part.is_contiguous() for part in (tokens, heard, back, again))
    one_channel = audio_to_tokens(sound[:, :1])
    assert one_channel.is_contiguous()
    view = latent.flatten(2).transpose(1, 2)
    state = StreamState.from_tokens(view, video_positions(grid, 24.0))
    assert not view.is_contiguous() and state.initial.is_contiguous() and state.clean.is_contiguous()


@torch.no_grad()
def test_the_transformer_sees_one_layout(tiny_pipeline, threads):
    component = tiny_pipeline.component("transformer")
    tiny_pipeline.residency.use(component)
    model, config, grid = component.module, tiny_pipeline.transformer_config, video_grid(96, 64, 17)
    seen = []
    hooks = [part.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
             for part in (model.patchify_proj, model.audio_patchify_proj)]
    video, audio = torch.randn(1, config.video.in_channels, grid.tokens), torch.randn(1, config.audio.in_channels, 9)
    text = Pass(torch.randn(1, 16, config.video.width), torch.randn(1, 16, config.audio.width))
    tables = model.tables(video_positions(grid, 24.0), audio_positions(9), torch.float32)
    sigma = torch.full((1,), 0.6)
    results = []
    for make in (torch.Tensor.contiguous, lambda x: x):
        streams = [StreamInput(make(part.transpose(1, 2)), sigma, sigma[:, None]) for part in (video, audio)]
        results += model(*streams, [text], tables)
    for hook in hooks:
        hook.remove()
    assert seen == [True] * 4
    assert all(map(torch.equal, *results))


@torch.no_grad()
def test_the_upscaler_sees_one_layout(tiny_pipeline):
    channels = tiny_pipeline.transformer_config.video.in_channels
    longer = torch.randn(1, channels, 5, 2, 2)
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, latent):
            seen.append(latent.is_contiguous())
            return latent

    ones = torch.ones(channels)
    part = longer[:, :, 1:3]
    assert not part.is_contiguous()
    upsample(Watch(), part, ones, ones)
    assert seen == [True]


@pytest.mark.parametrize("recipe", ["one_stage", "distilled", "hq"])
def test_a_window_and_a_plain_run_are_equal(tiny_pipeline, pair, recipe, threads):
    settings = {"recipe": recipe, **SIZE, **steps(recipe)}
    plain = tiny_pipeline.sample(pair, **settings)
    assert same(plain, tiny_pipeline.sample(pair, windows=Windows(25, 8), **settings))
    assert plain.video.is_contiguous() and plain.audio.is_contiguous()


def test_a_batch_is_its_samples(tiny_pipeline, pair, threads):
    both = tiny_pipeline.sample(pair, recipe="distilled", batch=2, **SIZE)
    for number in range(2):
        alone = tiny_pipeline.sample(pair, recipe="distilled", **SIZE | {"seed": 3 + number})
        assert same(both.sample(number), alone)


@pytest.mark.parametrize("recipe", ["distilled", "hq"])
def test_two_calls_are_one(tiny_pipeline, pair, recipe, threads):
    """Stage by stage, with the latents in any layout between them (files and other nodes bring any)."""
    settings = {"recipe": recipe, **SIZE, **steps(recipe)}
    whole = tiny_pipeline.sample(pair, audio_stage="last", **settings)
    first = tiny_pipeline.sample(pair, stages="first", **settings)
    strided = first.video.transpose(1, 4).contiguous().transpose(1, 4)
    assert not strided.is_contiguous()
    carried = replace(first, video=tiny_pipeline.upscale(strided).transpose(1, 4).contiguous().transpose(1, 4))
    settings.pop("steps", None)
    assert same(whole, tiny_pipeline.sample(pair, stages="second", start=carried, audio_stage="last",
                                             **settings))
