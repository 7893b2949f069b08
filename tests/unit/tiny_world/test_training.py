"""Training computes what the library computes, learns, resumes, and its files are an ordinary source."""
import json

import pytest
import torch
from safetensors.torch import load_file

from tools.tiny_world.shipped import FOLDER, files
from tools.tiny_world.train import audio, gemma, stereo, video_vae, vocoder
from tools.tiny_world.train.common import Run, make
from tools.tiny_world.train.configs import AUDIO_VAE, GEMMA_TEXT, TEXT_PROJECTION, TRANSFORMER, VAE
from tools.tiny_world.train.distil import official_lora
from tools.tiny_world.train.export import checkpoint
from tools.tiny_world.train.library import TextConnectors, hidden_states, normalize_and_concat
from tools.tiny_world.train.muon import orthogonal
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.start import start
from tools.tiny_world.train.text import contexts
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


def test_the_shipped_widths_are_those_of_the_official_architecture():
    assert VAE["latent_channels"] == 128 and TRANSFORMER["in_channels"] == 128
    assert TRANSFORMER["num_attention_heads"] == TRANSFORMER["audio_num_attention_heads"]


def test_activations_by_products_are_the_librarys():
    module = vocoder.fresh(CPU)
    mel = torch.randn(1, 2, vocoder.FRAMES, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part in module.modules():
            if hasattr(part, "downsample"):
                part.act.alpha.normal_(generator=torch.Generator().manual_seed(1))
        want = module.vocoder(mel.transpose(2, 3))
        wide = vocoder.unclamped_extension(module, want)
        vocoder.faster(module)
        assert torch.allclose(module.vocoder(mel.transpose(2, 3)), want, atol=1e-5)
        assert torch.allclose(vocoder.unclamped_extension(module, want), wide, atol=1e-5)


@pytest.mark.parametrize("start", [-5, 0, 40, 90])
def test_a_crop_has_the_samples_of_its_frames(start):
    mel = torch.arange(101.0).view(1, 1, 101, 1).expand(1, 2, -1, 64)
    waves = tuple(torch.arange(101.0).repeat_interleave(rate).expand(1, 2, -1) for rate in (160, 480))
    made, narrow, wide = vocoder.crop(mel + 1, tuple(wave + 1 for wave in waves), start)
    assert made.shape[2] == vocoder.FRAMES
    inside = [0 <= start + k < 101 for k in range(vocoder.FRAMES)]
    assert [bool(v) for v in made[0, 0, :, 0]] == inside
    for wave in (narrow, wide):
        assert torch.equal(wave.unflatten(2, (vocoder.FRAMES, -1)).amax(3), made[..., 0])


def test_a_fresh_vocoder_has_the_place_in_its_sides():
    module = vocoder.fresh(CPU)
    stereo.prepare(module)
    mel, angle, heard = stereo.angles(4)
    with torch.no_grad():
        wave = module.base_waveform(mel).unflatten(2, (mel.shape[2], -1))
    left, right = (wave - wave.mean(3, keepdim=True)).square().mean(3).sqrt().unbind(1)
    made = torch.atan2(left, right)[heard] - torch.pi / 4
    assert float((made - angle[heard]).abs().mean()) < 0.12  # radians; the whole width is 1.57


def test_training_goes_on_from_the_shipped_files(tmp_path):
    start(FOLDER, tmp_path)
    made = checkpoint(tmp_path)
    shipped = load_file(files().checkpoint)
    assert made.keys() == shipped.keys()
    assert all(torch.equal(made[name], value) for name, value in shipped.items())
    lora = load_file(files().distilled_lora)
    again = official_lora(tmp_path)
    assert again.keys() == lora.keys() and all(torch.equal(again[name], value) for name, value in lora.items())
    assert not start(FOLDER, tmp_path), "files of a run are not overwritten"
