"""What sound is said to need against the bytes that are alive at the 22B's shapes, counted on the meta device."""
from __future__ import annotations

import gzip
import json

import pytest
import torch

from bench.sound_memory import MANIFEST
from ltx23_core.config import AudioVAEConfig, VocoderConfig
from ltx23_core.decode.sound import decode_sound, encode_sound
from ltx23_core.memory.estimates import sound_decode_bytes, sound_encode_bytes
from ltx23_core.models.registry import build
from tests.support.live_bytes import LiveBytes

CONFIG = json.loads(gzip.decompress(MANIFEST.read_bytes()))["metadata"]["config"]
VAE, VOICES = AudioVAEConfig.from_dict(CONFIG["audio_vae"]), VocoderConfig.from_dict(CONFIG["vocoder"])


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
    assert counted.peak <= sound_decode_bytes(VAE, VOICES, count, 2) <= 1.1 * counted.peak

    encoder = module("audio_encoder", CONFIG["audio_vae"], torch.bfloat16)
    sound = torch.empty(1, 2, VAE.sampling_rate * seconds, device="meta")
    with torch.no_grad(), LiveBytes() as counted:
        encode_sound(encoder, sound, VAE, torch.bfloat16)
    assert counted.peak <= sound_encode_bytes(VAE, count, 2) <= 1.1 * counted.peak
