"""Sound in pieces: the same as in one, at any length, and interruptible between pieces."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.config import AudioVAEConfig, VocoderConfig
from ltx23_core.decode import sound
from ltx23_core.memory.estimates import WORKSPACE, sound_decode_bytes, sound_encode_bytes
from ltx23_core.models.audio.mel import waveform_to_mel
from ltx23_core.models.registry import build
from tests.unit.models.test_audio import CONFIG, filled, small_audio, small_vocoder

VAE, VOICES = AudioVAEConfig.from_dict(small_audio()), VocoderConfig.from_dict(small_vocoder())


@pytest.fixture(scope="module")
def modules() -> tuple[torch.nn.Module, ...]:
    return (filled(build("audio_encoder", small_audio())), filled(build("audio_decoder", small_audio())),
            filled(build("vocoder", small_vocoder()), 0.05))


@pytest.mark.parametrize(("total", "size", "before", "after"), [
    (1, 384, 35, 10), (384, 384, 35, 10), (385, 384, 35, 10), (1000, 384, 35, 10), (90, 46, 35, 10), (77, 60, 27, 0)])
def test_pieces_cover_a_length_once_with_context(total: int, size: int, before: int, after: int) -> None:
    cut = list(sound.pieces(total, size, before, after))
    assert [p.keep for p in cut] == [0, *[p.keep_end for p in cut[:-1]]] and cut[-1].keep_end == total
    for piece in cut:
        assert piece.read_end - piece.read == min(total, size), "one shape, so one choice of kernels"
        assert piece.read <= max(0, piece.keep - before) and piece.read_end >= min(total, piece.keep_end + after)


@pytest.mark.parametrize("size", [70, 100, 131])
def test_decoded_in_pieces_it_is_the_whole(modules: tuple[torch.nn.Module, ...], size: int) -> None:
    _, decoder, vocoder = modules
    latent = torch.randn(2, VAE.latent_channels, 210, VAE.latent_bins, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = vocoder(decoder(latent))
        assert torch.equal(sound.decode_sound(decoder, vocoder, latent, (VAE, VOICES)), whole)
        got = sound.decode_sound(decoder, vocoder, latent, (VAE, VOICES), size=size)
        assert torch.equal(sound.decode_sound(decoder, vocoder, latent, (VAE, VOICES), size=size, stays=True), got)
    assert got.shape == whole.shape == (2, 2, 480 * (4 * 210 - 3))
    assert (got - whole).abs().max() < 1e-4 * whole.std()


def test_context_is_no_larger_than_needed_and_no_smaller(modules: tuple[torch.nn.Module, ...]) -> None:
    """A change of one latent reaches exactly what the reaches say; outside not a bit changes."""
    _, decoder, vocoder = modules
    latent = torch.randn(1, VAE.latent_channels, 120, VAE.latent_bins, generator=torch.Generator().manual_seed(4))
    other = latent.clone()
    other[:, :, 40] += 1
    with torch.no_grad():
        moved = (decoder(latent) != decoder(other)).any(-1).any(1)[0].nonzero().flatten()
        assert moved[0] >= 4 * 40 - 3 and (moved[-1] + 3) // 4 - 40 <= sound.decoder_reach(VAE)
        assert (moved[-1] + 3) // 4 - 40 >= sound.decoder_reach(VAE) - 4, "no needless context"
        mel = decoder(latent)
        changed = mel.clone()
        changed[:, :, 200] += 1
        heard = (vocoder(mel) != vocoder(changed)).any(1)[0].nonzero().flatten() // 480
    assert 200 - heard[0] <= sound.vocoder_reach(VOICES) and heard[-1] - 200 <= sound.vocoder_reach(VOICES)


@pytest.mark.parametrize("samples", [513, 16000, 100_001, 130_000])
@pytest.mark.parametrize("size", [40, 64])
def test_encoded_in_pieces_it_is_the_whole(modules: tuple[torch.nn.Module, ...], samples: int, size: int) -> None:
    encoder, *_ = modules
    wave = 0.1 * torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        whole = encoder(waveform_to_mel(wave, 16000, VAE))
        assert torch.equal(sound.encode_sound(encoder, wave, VAE, torch.float32), whole)
        got = sound.encode_sound(encoder, wave, VAE, torch.float32, size=size)
    assert got.shape == whole.shape and (got - whole).abs().max() < 1e-4 * whole.std()


def test_pieces_have_the_same_bits_whatever_follows(modules: tuple[torch.nn.Module, ...]) -> None:
    """Up to the last piece of the shorter sound, which alone lies off the grid."""
    encoder, decoder, vocoder = modules
    long = torch.randn(1, VAE.latent_channels, 330, VAE.latent_bins, generator=torch.Generator().manual_seed(6))
    sides = -(-sound.vocoder_reach(VOICES) // 4) + 1
    with torch.no_grad():
        whole = sound.decode_sound(decoder, vocoder, long, (VAE, VOICES), size=80)
        for length in (329, 290, 200):
            cut = list(sound.pieces(length, 80, sound.decoder_reach(VAE) + sides, sides))
            same = 480 * (4 * cut[-1].keep - 3)
            got = sound.decode_sound(decoder, vocoder, long[:, :, :length], (VAE, VOICES), size=80)
            assert same > 0.5 * got.shape[-1] and torch.equal(got[..., :same], whole[..., :same])
        wave = 0.1 * torch.randn(1, 2, 200_000, generator=torch.Generator().manual_seed(7))
        whole = sound.encode_sound(encoder, wave, VAE, torch.float32, size=64)
        for samples in (199_000, 150_000):
            got = sound.encode_sound(encoder, wave[..., :samples], VAE, torch.float32, size=64)
            last = list(sound.pieces(got.shape[2], 64, sound.encoder_reach(VAE), 0))[-1].keep
            assert last > 30 and torch.equal(got[:, :, :last], whole[:, :, :last])


def test_an_interrupt_is_heard_before_each_piece(modules: tuple[torch.nn.Module, ...]) -> None:
    encoder, decoder, vocoder = modules
    latent, calls = torch.zeros(1, VAE.latent_channels, 150, VAE.latent_bins), []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        sound.decode_sound(decoder, vocoder, latent, (VAE, VOICES), check, size=80)
    assert len(calls) == 3, "after the first of several pieces"
    calls.clear()
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        sound.encode_sound(encoder, torch.zeros(1, 2, 100_000), VAE, torch.float32, check, size=40)


def test_pieces_are_counted_beforehand() -> None:
    assert [sound.decode_pieces((VAE, VOICES), length) for length in (1, sound.PIECE, sound.PIECE + 1)] == [1, 1, 2]
    assert [sound.encode_pieces(VAE, length) for length in (1, sound.PIECE, sound.PIECE + 1)] == [1, 1, 2]


def test_the_estimate_stops_growing_at_a_piece() -> None:
    vae, voices = AudioVAEConfig.from_dict(CONFIG["audio_vae"]), VocoderConfig.from_dict(CONFIG["vocoder"])
    minute, hour = (sound_decode_bytes(vae, voices, 25 * seconds, 2) for seconds in (60, 3600))
    assert minute == hour == sound_decode_bytes(vae, voices, sound.PIECE, 2) < 1e9
    fixed = WORKSPACE  # of the matrix library, for a sound of any length
    assert sound_decode_bytes(vae, voices, 126, 2) - fixed < (minute - fixed) / 2.9
    assert sound_encode_bytes(vae, 25 * 60, 2) < 0.4e9
