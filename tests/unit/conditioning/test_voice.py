"""Reference voice: tokens, positions, timesteps and identity guidance against their own arithmetic (spec/10)."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx23_core import Pipeline
from ltx23_core.conditioning.source_streams import SourceAudio
from ltx23_core.conditioning.voice import ReferenceVoice, voice_positions
from ltx23_core.errors import MediaError, RequestError
from ltx23_core.geometry import audio_positions
from ltx23_core.media.audio import Audio
from ltx23_core.plan.windows import Windows
from ltx23_core.sampling.denoiser import Denoiser, PromptContext
from ltx23_core.sampling.state import StreamState

SPEECH = Audio(0.2 * torch.sin(torch.arange(48_000) * 0.05).expand(1, 2, -1).contiguous(), 16_000)
SIZE = {"width": 64, "height": 64, "frames": 9, "seed": 4, "steps": 2}


@pytest.mark.parametrize("length", [1, 2, 125])
def test_the_sample_ends_one_latent_before_the_clip(length: int) -> None:
    positions, own = voice_positions(length), audio_positions(length)
    assert positions[0, 0, -1, 1] == pytest.approx(-0.04, abs=1e-6)
    assert torch.allclose(positions - positions[..., :1, :1], own - own[..., :1, :1], atol=1e-5)
    assert (positions < 0).all()


def states(pipe: Pipeline, voice: int, count: int = 6) -> StreamState:
    generator = torch.Generator().manual_seed(1)
    width = pipe.transformer_config.audio.in_channels
    plain = StreamState.from_tokens(torch.randn(1, count, width, generator=generator), audio_positions(count))
    tokens = torch.randn(1, voice, width, generator=generator)
    return plain.appended(tokens, voice_positions(voice), 1.0) if voice else plain


def test_identity_guidance_is_the_difference_that_the_sample_makes(tiny_pipeline: Pipeline) -> None:
    pipe = tiny_pipeline
    [module] = pipe._use("transformer")
    positive = PromptContext(None, pipe.encode("a").positive.audio)
    heard, plain = states(pipe, 5), states(pipe, 0)

    def x0(state: StreamState, identity: float) -> torch.Tensor:
        with torch.no_grad():
            denoiser = Denoiser(module, positive, None, None, None, state, identity=identity)
            return denoiser((None, state.clean), 0.7, 0)[1][:, :6]

    assert heard.mask[0, :, 0].tolist() == [1] * 6 + [0] * 5, "the sample is clean: timestep 0"
    cond, without = x0(heard, 0.0), x0(plain, 0.0)
    assert (cond - without).abs().max() > 1e-4, "the sample is heard"
    assert torch.allclose(x0(heard, 3.0), cond + 3 * (cond - without), atol=1e-5)
    assert torch.equal(x0(plain, 3.0), without)


@pytest.mark.parametrize("recipe", ["one_stage", "distilled"])
def test_a_run_follows_the_sample_and_does_not_contain_it(tiny_pipeline: Pipeline, recipe: str) -> None:
    pair, settings = tiny_pipeline.encode("a"), {**SIZE, "recipe": recipe}
    if recipe == "distilled":
        settings.pop("steps")
    plain = tiny_pipeline.sample(pair, **settings)
    runs = [tiny_pipeline.sample(pair, conditions=[ReferenceVoice(SPEECH, identity)], **settings)
            for identity in (0.0, 3.0)]
    assert all(run.audio.shape == plain.audio.shape and run.video.shape == plain.video.shape for run in runs)
    assert not torch.equal(runs[0].audio, plain.audio) and not torch.equal(runs[0].audio, runs[1].audio)
    again = tiny_pipeline.sample(pair, conditions=[ReferenceVoice(SPEECH, 3.0)], **settings)
    assert torch.equal(again.audio, runs[1].audio)


def test_every_window_hears_the_sample(tiny_pipeline: Pipeline) -> None:
    pair, long = tiny_pipeline.encode("a"), {**SIZE, "frames": 33, "windows": Windows(17, 8)}
    plain = tiny_pipeline.sample(pair, **long)
    voiced = tiny_pipeline.sample(pair, conditions=[ReferenceVoice(SPEECH, 0.0)], **long)
    assert voiced.audio.shape == plain.audio.shape
    assert not torch.equal(voiced.audio[:, :, -3:], plain.audio[:, :, -3:])


def test_a_window_leaves_the_sample_before_time(tiny_pipeline: Pipeline) -> None:
    state = states(tiny_pipeline, 4)
    taken = state.take(torch.tensor([2, 3, 6, 7, 8, 9]), 0.05)
    assert torch.equal(taken.positions[:, :, 2:], state.positions[:, :, 6:])
    assert torch.allclose(taken.positions[:, :, :2], state.positions[:, :, 2:4] - 0.05)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ReferenceVoice(Audio(torch.zeros(1, 2, 0), 48_000)), "reference voice has shape"),
    (lambda: ReferenceVoice(Audio(torch.full((1, 1, 99), torch.nan), 48_000)), "reference voice holds NaN"),
    (lambda: replace(ReferenceVoice(SPEECH), identity=-1.0), "identity guidance is -1"),
    (lambda: replace(ReferenceVoice(SPEECH), identity=float("nan")), "identity guidance is nan"),
    (lambda: replace(ReferenceVoice(SPEECH), seconds=0.0), "0.0 s of the reference voice")])
def test_what_no_voice_can_be(make, words: str) -> None:
    with pytest.raises((MediaError, RequestError), match=words):
        make()


def test_beside_a_kept_sound_it_is_refused(tiny_pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="Source Audio keeps the sound as it is and Reference Voice changes it"):
        tiny_pipeline.sample(tiny_pipeline.encode("a"), **SIZE,
                             conditions=[SourceAudio(SPEECH), ReferenceVoice(SPEECH)])
