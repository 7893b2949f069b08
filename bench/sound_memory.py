"""Peak memory and time of decoding and encoding sound at the shapes of 22B, beside the estimates; weights are random.

    python -m bench.sound_memory            # on a CUDA device, about a minute
    python -m bench.sound_memory --small    # the same code on the CPU with small networks
"""
from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import torch

from ltx23_core.config import AudioVAEConfig, VocoderConfig
from ltx23_core.decode.sound import decode_sound, encode_sound
from ltx23_core.memory.estimates import sound_decode_bytes, sound_encode_bytes
from ltx23_core.models.registry import build

MANIFEST = Path(__file__).parents[1] / "tests" / "goldens" / "manifest-22b-dev.json.gz"
SECONDS = (5, 15, 20, 60, 416)


def module(name: str, config: dict, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """A network with small random weights."""
    made = build(name, config).to_empty(device=device).to(dtype)
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.data.normal_(std=0.02)
    return made.eval()


def peak(device: torch.device, run: object) -> tuple[float, float]:
    """(bytes beyond what was there, seconds) of a call; bytes are 0 on the CPU."""
    cuda = device.type == "cuda"
    if cuda:
        torch._C._cuda_clearCublasWorkspaces()  # each call as the first of a process
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, begin = torch.cuda.memory_allocated() if cuda else 0, time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before if cuda else 0), time.perf_counter() - begin


@torch.no_grad()
def main() -> None:
    """Print one line for each length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    config = json.loads(gzip.decompress(MANIFEST.read_bytes()))["metadata"]["config"]
    if small:
        config["audio_vae"]["model"]["params"]["ddconfig"]["ch"] = 8
        config["vocoder"]["vocoder"]["upsample_initial_channel"] = 64
        config["vocoder"]["bwe"]["upsample_initial_channel"] = 32
    device = torch.device("cpu" if small else "cuda")
    dtype = torch.float32 if small else torch.bfloat16
    vae, voices = AudioVAEConfig.from_dict(config["audio_vae"]), VocoderConfig.from_dict(config["vocoder"])
    decoder, encoder = (module(name, config["audio_vae"], device, dtype) for name in ("audio_decoder", "audio_encoder"))
    vocoder = module("vocoder", config["vocoder"], device, torch.float32)
    print("seconds  decode GB  stated GB      s   encode GB  stated GB      s")
    for seconds in SECONDS[:1] if small else SECONDS:
        count = 25 * seconds
        latent = torch.randn(1, vae.latent_channels, count, vae.latent_bins, device=device, dtype=dtype)
        sound = 0.1 * torch.randn(1, 2, 16_000 * seconds)
        decoded = peak(device, lambda latent=latent: decode_sound(decoder, vocoder, latent, (vae, voices)))
        encoded = peak(device, lambda sound=sound: encode_sound(encoder, sound.to(device), vae, dtype))
        stated = (sound_decode_bytes(vae, voices, count, dtype.itemsize),
                  sound_encode_bytes(vae, count, dtype.itemsize))
        print(f"{seconds:7d}  {decoded[0] / 1e9:9.3f}  {stated[0] / 1e9:9.3f}  {decoded[1]:5.2f}   "
              f"{encoded[0] / 1e9:9.3f}  {stated[1] / 1e9:9.3f}  {encoded[1]:5.2f}")


if __name__ == "__main__":
    main()
