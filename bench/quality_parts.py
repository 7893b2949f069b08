"""Which part loses what? Rendered scenes through single parts of the tiny model: `python -m bench quality --parts`.

The first row is the evaluator's own error; the others are the most that any prompt can get with these parts.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from ltx23_core import Pipeline
from tools.tiny_world.evaluate import Verdict, judge, summary

from .quality import FPS, RATE, SCORES, psnr
from .quality_features import Example, examples

HEADS = ("part", *SCORES, "dB to the scene")
Clip = tuple[np.ndarray, np.ndarray]


def picture(pipe: Pipeline, example: Example) -> Clip:
    """The frames through the video VAE, the sound as it is."""
    pixels = torch.from_numpy(example.frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    decoded = torch.cat(list(pipe.decode_video(pipe.encode_video(pixels), None, eight_bit=True)))
    return decoded.numpy(), example.wave


def sound(pipe: Pipeline, example: Example) -> Clip:
    """The sound through mel, audio VAE and vocoder, the frames as they are."""
    latent = pipe.encode_audio(example.clip.audio)
    return example.frames, pipe.decode_audio(latent).waveform[0].numpy()


def both(pipe: Pipeline, example: Example) -> Clip:
    """Both through their parts."""
    return picture(pipe, example)[0], sound(pipe, example)[1]


PARTS: dict[str, Callable[[Pipeline, Example], Clip]] = {
    "rendered": lambda pipe, example: (example.frames, example.wave),
    "video VAE": picture, "audio VAE and vocoder": sound, "both": both}


def judged(pipe: Pipeline, part: str, shown: Iterable[Example]) -> tuple[list[Verdict], list[float]]:
    """Verdicts, and dB of the frames to the scene's."""
    verdicts, apart = [], []
    for example in shown:
        frames, wave = PARTS[part](pipe, example)
        verdicts.append(judge(frames, FPS, wave, RATE, example.request))
        apart.append(psnr(frames, example.frames))
    return verdicts, apart


def measure(pipe: Pipeline, count: int) -> list[list[object]]:
    """Rows of the table."""
    rows: list[list[object]] = []
    for part in PARTS:
        verdicts, apart = judged(pipe, part, examples(count))
        scores = summary(verdicts)
        shares = [round(100 * scores[name], 1) if name in scores else "" for name in SCORES]
        rows.append([part, *shares, round(float(np.mean(apart)), 1)])
        print(f"# {rows[-1]}", flush=True)
    return rows
