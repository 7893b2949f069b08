"""What sound is said to need against the bytes that are alive at the 22B's shapes, counted on the meta device."""
from __future__ import annotations

import gzip
import json

import pytest
import torch

from bench.sound_memory import MANIFEST
from ltx23_core.config import AudioVAEConfig, VocoderConfig
from ltx23_core.decode.sound import PIECE, decode_sound, encode_sound
from ltx23_core.memory.estimates import sound_decode_bytes, sound_encode_bytes
from ltx23_core.models.registry import build
from tests.support.live_bytes import LiveBytes

CONFIG = json.loads(gzip.decompress(MANIFEST.read_bytes()))["metadata"]["config"]
VAE, VOICES = AudioVAEConfig.from_dict(CONFIG["audio_vae"]), VocoderConfig.from_dict(CONFIG["vocoder"])
LIBRARY = 32 << 20  # bytes: the workspace of its products


def module(name: str, config: dict, dtype: torch.dtype) -> torch.nn.Module:
    with torch.device("meta"):
        return build(name, config).to(dtype).eval()


@pytest.mark.parametrize("seconds", [5, 15, 20, 60])
def test_sound(seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never exceeded, and within 10 %, at lengths of one piece and of several."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda _: torch.zeros(0))  # what leaves the device has no values here
    count = 25 * seconds
    decoder, vocoder = module("audio_decoder", CONFIG["audio_vae"], torch.bfloat16), module(
        "vocoder", CONFIG["vocoder"], torch.float32)
    latent = torch.empty(1, VAE.latent_channels, count, VAE.latent_bins, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), LiveBytes() as counted:
        decode_sound(decoder, vocoder, latent, (VAE, VOICES))
    peak = counted.peak + LIBRARY
    assert peak <= sound_decode_bytes(VAE, VOICES, count, 2) <= 1.1 * peak

    encoder = module("audio_encoder", CONFIG["audio_vae"], torch.bfloat16)
    with torch.no_grad(), LiveBytes() as counted:
        encode_sound(encoder, torch.empty(1, 2, VAE.sampling_rate * seconds, device="meta"), VAE, torch.bfloat16)
    rearranged = 2 * 4 * min(count, PIECE) * VAE.base_channels * VAE.mel_bins * 2
    peak = counted.peak + rearranged + LIBRARY
    assert peak <= sound_encode_bytes(VAE, count, 2) <= 1.1 * peak


@pytest.mark.parametrize(("seconds", "decoded", "encoded"), [(5, 0.190, 0.059), (15, 0.467, 0.178), (20, 0.478, 0.181),
                                                             (60, 0.478, 0.186), (416, 0.478, 0.234)])
def test_measured_on_an_h200(seconds: int, decoded: float, encoded: float) -> None:
    """In one process, the lengths in turn: only the first decoding took the workspace, and the given waveform was not
    counted (2026-11-28, torch 2.11, bfloat16)."""
    workspace, given = LIBRARY, 4 * 2 * VAE.sampling_rate * seconds
    decoded += 0 if seconds == 5 else workspace / 1e9
    encoded += (workspace + given) / 1e9
    count = 25 * seconds
    assert decoded <= sound_decode_bytes(VAE, VOICES, count, 2) / 1e9 <= 1.1 * decoded
    assert encoded <= sound_encode_bytes(VAE, count, 2) / 1e9 <= 1.1 * encoded
