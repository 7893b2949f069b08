"""Sample many clips at once from training files, and judge them: `python -m tools.tiny_world.train.generate`.

A plain sampler for looking at a training run: Euler steps with classifier-free guidance. What counts is measured
through the library's own pipeline.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.tiny_world.captions import understand
from tools.tiny_world.evaluate import Verdict, judge, summary
from tools.tiny_world.prompts import held_out_prompts
from tools.tiny_world.train import audio, gemma, video_vae, vocoder
from tools.tiny_world.train.common import load_part, pick_device
from tools.tiny_world.train.configs import DEMO, FPS, Size
from tools.tiny_world.train.library import Pass, StreamInput, Tokenizer, audio_latent_length, ltx2_schedule
from tools.tiny_world.train.text import contexts
from tools.tiny_world.train.tokenizer import TOKENIZER
from tools.tiny_world.train.transformer import PARTS, Tables, fresh

STEPS, VIDEO_CFG, AUDIO_CFG = 30, 3.0, 3.0


class Sampler:
    """All modules of a training folder."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.folder = device, dtype, folder
        self.modules = fresh(device)
        for part in PARTS:
            load_part(folder / "transformer.safetensors", part, self.modules[part])
            self.modules[part].to(dtype).requires_grad_(False)
        self.decoder = video_vae.load(folder, "decoder", device, dtype)
        self.audio_decoder, self.vocoder = audio.load(folder, device, dtype)[1], vocoder.load(folder, device)
        self.gemma = gemma.load(folder, device)
        self.tokenizer = Tokenizer(TOKENIZER)
        self.tables = Tables(self.modules["transformer"], device, dtype)

    @torch.no_grad()
    def contexts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Contexts of prompts."""
        rows = [self.tokenizer.encode(prompt) for prompt in prompts]
        ids, mask = (part.to(self.device) for part in gemma.padded(rows, max(map(len, rows))))
        joined = gemma.features(self.gemma, ids, mask).to(self.dtype)
        return contexts(self.modules["text_projection"], self.modules["connectors"], joined, mask)

    @torch.no_grad()
    def latents(self, prompts: Sequence[str], size: Size, seed: int, sigmas: Sequence[float], cfg: tuple[float, float],
                negative: str = "") -> tuple[Tensor, Tensor]:
        """Normalised tokens of the two streams."""
        count = len(prompts)
        generator = torch.Generator().manual_seed(seed)
        tokens = (size.frames // 8 + 1) * (size.height // 32) * (size.width // 32)
        x = [torch.randn(count, n, 128, generator=generator).to(self.device)
             for n in (tokens, audio_latent_length(size.frames, FPS))]
        passes = [Pass(*self.contexts(prompts))]
        guided = any(value != 1 for value in cfg)
        if guided:
            passes.append(Pass(*(part.expand(count, -1, -1) for part in self.contexts([negative]))))
        tables = self.tables.of(size.width, size.height, size.frames)
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            level = torch.full((count,), sigma, device=self.device)
            streams = [StreamInput(part.to(self.dtype), level, level[:, None]) for part in x]
            made = self.modules["transformer"](*streams, passes, tables)
            for stream in (0, 1):
                v = made[0][stream].float()
                if guided:
                    v = v + (cfg[stream] - 1) * (v - made[1][stream].float())
                x[stream] = x[stream] + (after - sigma) * v
        return x[0], x[1]

    @torch.no_grad()
    def decode(self, video: Tensor, sound: Tensor, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Tokens to 8-bit frames (B, F, H, W, 3) and waves (B, 2, samples) at 48 kHz."""
        grid = (size.frames // 8 + 1, size.height // 32, size.width // 32)
        latent = video.transpose(1, 2).unflatten(2, grid).to(self.dtype)
        frames = ((self.decoder(latent).float() + 1) * 127.5).round().clamp(0, 255).byte()
        mel = self.audio_decoder(sound.unflatten(2, (8, 16)).transpose(1, 2).to(self.dtype))
        return frames.permute(0, 2, 3, 4, 1).cpu().numpy(), self.vocoder(mel.float()).cpu().numpy()


def run(sampler: Sampler, prompts: Sequence[str], size: Size = DEMO, seed: int = 0, steps: int = STEPS,
        cfg: tuple[float, float] = (VIDEO_CFG, AUDIO_CFG), chunk: int = 50,
        sigmas: Sequence[float] | None = None) -> tuple[list[Verdict], list[np.ndarray]]:
    """Generate and judge; frames of all clips are returned, too."""
    sigmas = sigmas or ltx2_schedule(steps)
    verdicts, shown = [], []
    for start in range(0, len(prompts), chunk):
        part = prompts[start:start + chunk]
        frames, waves = sampler.decode(*sampler.latents(part, size, seed + start, sigmas, cfg), size)
        for index, prompt in enumerate(part):
            verdicts.append(judge(frames[index], FPS, waves[index], 48000, understand(prompt)))
            shown.append(frames[index])
    return verdicts, shown


def sheet(clips: Sequence[np.ndarray], path: Path, frames: int = 8) -> None:
    """A picture of clips, one a row, ``frames`` of each side by side."""
    from PIL import Image
    rows = []
    for clip in clips:
        chosen = np.linspace(0, len(clip) - 1, frames).round().astype(int)
        rows.append(np.concatenate(list(clip[chosen]), axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    """Print scores on held-out prompts, write a sheet of the first ones."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_world.train.generate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/tiny"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cfg", type=float, nargs=2, default=(VIDEO_CFG, AUDIO_CFG), metavar=("VIDEO", "AUDIO"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--chunk", type=int, default=50)
    options = parser.parse_args()
    device = pick_device(options.device)
    sampler = Sampler(options.folder, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    prompts = held_out_prompts(options.count)
    verdicts, shown = run(sampler, prompts, steps=options.steps, cfg=tuple(options.cfg), chunk=options.chunk)
    scores = {name: round(value, 4) for name, value in summary(verdicts).items()}
    print(json.dumps({"steps": options.steps, "cfg": list(options.cfg), **scores}), flush=True)
    if options.sheet:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet(shown[:12], options.sheet)
        options.sheet.with_suffix(".txt").write_text("\n".join(
            f"{prompt} -> {v.seen.colour} {v.seen.shape} {v.seen.motion} pitch {v.pitch} bounces {v.bounces}"
            for prompt, v in zip(prompts, verdicts, strict=True)) + "\n")


if __name__ == "__main__":
    main()
