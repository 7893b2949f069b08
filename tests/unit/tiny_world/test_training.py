"""Training computes what the library computes, learns, resumes, and its files are an ordinary source."""
import json

import numpy as np
import pytest
import torch

from tools.tiny_world.train import audio, gemma, video_vae
from tools.tiny_world.train.common import Optimiser, Run, make
from tools.tiny_world.train.configs import AUDIO_VAE, DEMO, GEMMA_TEXT, TEXT_PROJECTION, TRANSFORMER, VAE
from tools.tiny_world.train.library import TextConnectors, hidden_states, normalize_and_concat
from tools.tiny_world.train.muon import orthogonal
from tools.tiny_world.train.text import contexts
from tools.tiny_world.train.transformer import KINDS, masks_of
from tools.tiny_world.train.video_forward import moments, pixels_of

CPU = torch.device("cpu")


def test_the_video_forward_is_the_librarys():
    encoder, decoder = video_vae.fresh(CPU)
    clip = torch.rand(1, 3, 17, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latent = moments(encoder, clip)[0]
        assert torch.allclose(encoder(clip), latent, atol=1e-5)
        assert torch.allclose(decoder(latent), pixels_of(decoder, latent), atol=1e-4)


def test_the_audio_latent_is_the_librarys():
    encoder = make("audio_encoder", AUDIO_VAE, CPU)
    mel = torch.randn(2, 2, 17, 64, generator=torch.Generator().manual_seed(0)) - 6
    with torch.no_grad():
        assert torch.allclose(encoder(mel), audio.raw_latent(encoder, mel)[0], atol=1e-5)


def test_the_text_side_is_the_librarys():
    module = gemma.fresh(CPU).eval()
    connectors: TextConnectors = make("connectors", TRANSFORMER, CPU)
    projection = make("text_projection", TEXT_PROJECTION, CPU)
    rows = [[2, 300, 17, 42, 99], [2, 5, 6]]
    ids, mask = gemma.padded(rows, 9)
    with torch.no_grad():
        made = contexts(projection, connectors, gemma.features(module, ids, mask), mask)
        for index, row in enumerate(rows):
            states = hidden_states(module, row)
            want = connectors(*projection(list(states)))
            for stream in (0, 1):
                assert torch.allclose(made[stream][index:index + 1], want[stream], atol=2e-4)
    assert normalize_and_concat(states).shape[-1] == GEMMA_TEXT["hidden_size"] * (GEMMA_TEXT["num_hidden_layers"] + 1)


def test_an_orthogonal_update_is_orthogonal():
    made = orthogonal(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)))
    singular = torch.linalg.svdvals(made)
    assert (singular > 0.6).all() and (singular < 1.3).all()


def test_a_run_learns_saves_and_resumes(tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 1))
    run, optimiser = Run(tmp_path, "line", 1, steps=150), Optimiser({"line": layer}, 5e-2, torch.float32, warmup=5)
    assert not run.resume(optimiser)
    rng = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(32, 6, generator=rng)
        loss = (layer(x)[:, 0] - x.sum(1)).square().mean()
        loss.backward()
        optimiser.step(run.done)
        if not run.after(optimiser, {"loss": loss}):
            break
    rows = [json.loads(line) for line in (tmp_path / "log-line.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 150 and float(loss.detach()) < 0.1 * rows[0]["loss"]
    again = Optimiser({"line": torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 1))}, 1e-2, torch.float32)
    assert Run(tmp_path, "line", 1).resume(again)
    assert all(torch.equal(a, b) for a, b in zip(again.mean, optimiser.mean, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_step_generates_something(kind):
    for seed in range(20):
        masks = masks_of(kind, DEMO, np.random.default_rng(seed), CPU)
        assert masks.video is None or masks.video.any()
        assert masks.audio is None or masks.audio.any()
        assert not (masks.video_frozen and masks.audio_frozen)


def test_the_shipped_widths_are_those_of_the_official_architecture():
    assert VAE["latent_channels"] == 128 and TRANSFORMER["in_channels"] == 128
    assert TRANSFORMER["num_attention_heads"] == TRANSFORMER["audio_num_attention_heads"]
