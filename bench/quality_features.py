"""Does each feature do what it says? Checks on the tiny model by the evaluator: `python -m bench quality --features`.

Every check makes clips from scenes of held-out triples and gives a score for each; a row is their mean, a share in per
cent where the unit says so.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx23_core import (
    Audio,
    Extend,
    Guidance,
    ImageCondition,
    Inpaint,
    Lora,
    Pipeline,
    Retake,
    SourceAudio,
    SourceClip,
    SourceVideo,
    Windows,
)
from ltx23_core.plan.recipes import DISTILLED_SIGMAS, RECIPES
from tools.tiny_world.captions import Request, describe, understand, write
from tools.tiny_world.evaluate import Verdict, judge
from tools.tiny_world.look import Seen, look
from tools.tiny_world.prompts import held_out_scenes
from tools.tiny_world.render import render
from tools.tiny_world.scene import BOUNCES, COLOURS, MOTIONS, Scenes
from tools.tiny_world.shipped import SIZE
from tools.tiny_world.sound import render_sound

from .quality import FPS, clip_of, psnr, sources
from .quality_kept import KeptScores, digest

HEADS = ("feature", "what", "unit", "mean", "worst", "clips")
LARGE = {"width": 256, "height": 128, "frames": 25}       # of recipes of two stages
SMALL = dict(zip(("width", "height", "frames"), SIZE, strict=True))
LONG, WINDOW, OVERLAP = 65, 33, 8
RETAKEN = (0.4, 0.7)           # seconds; frames 9 to 16 lie in it whole
Scores = dict[tuple[str, str], float]                      # (what, unit) -> score


@dataclass(frozen=True)
class Example:
    """A rendered scene: what is asked for, its caption, frames (F, H, W, 3) 8-bit, sound (2, samples) at 48 kHz."""

    request: Request
    prompt: str
    frames: np.ndarray
    wave: np.ndarray
    seed: int

    @property
    def clip(self) -> SourceClip:
        """As a source."""
        return SourceClip(torch.from_numpy(self.frames), Audio(torch.from_numpy(self.wave)[None], 48000))


def examples(count: int, frames: int = SIZE[2], moving: bool = False) -> Iterator[Example]:
    """Rendered held-out scenes at the demo's size; ``moving``: only those that go from one place to another."""
    width, height, _ = SIZE
    scenes = held_out_scenes(8 * count, width / height, frames / FPS, seed=77)
    wanted = [MOTIONS.index(name) for name in ("right", "left", *BOUNCES[:2])]
    chosen = [i for i in range(len(scenes)) if not moving or scenes.motion[i] in wanted][:count]
    for seed, index in enumerate(chosen):
        yield _example(scenes[np.array([index])], frames, seed)


def _example(scene: Scenes, frames: int, seed: int) -> Example:
    width, height, _ = SIZE
    request = describe(scene, 0)
    prompt = write(np.random.default_rng(seed), request)
    picture = (render(scene, frames, FPS, width, height)[0] * 255).round().byte().permute(1, 2, 3, 0).numpy()
    wave = render_sound(scene, round(100 * frames / FPS) + 1, 48000)[0].numpy()
    return Example(request, prompt, picture, wave[:, :round(frames / FPS * 48000)], seed)


class Maker:
    """Makes clips with a pipeline.

    Args:
        pipe: of the tiny model.
        lora: file of its distilled LoRA.
        steps: of recipes that have no schedule of their own; None: theirs.
    """

    def __init__(self, pipe: Pipeline, lora: Path, steps: int | None = None) -> None:
        self.pipe, self.lora, self._steps = pipe, lora, steps

    @property
    def identity(self) -> str:
        """Names everything that a check's scores depend on beside its example."""
        return digest(*sources(self.pipe.overlay), self.lora, str(self.pipe.dtype), self._steps)

    def clip(self, example: Example, prompt: str | None = None, pipe: Pipeline | None = None,
             **settings: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401 (the fields of `Settings`)
        """Frames and sound for an example's prompt, or for another one."""
        pipe = pipe or self.pipe
        given = {"recipe": "one_stage", **SMALL, "seed": example.seed, "noise_device": "cpu", **settings}
        if self._steps and not RECIPES[given["recipe"]].stages[0].sigmas and "sigmas" not in given:
            given["steps"] = self._steps
        latents = pipe.sample(pipe.encode(prompt or example.prompt), **given)
        return clip_of(pipe, latents)

    def coded(self, frames: np.ndarray) -> np.ndarray:
        """Frames after the way through the VAE: what a held stretch is compared with."""
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
        latent = self.pipe.encode_video(pixels)
        return torch.cat(list(self.pipe.decode_video(latent, None, eight_bit=True))).numpy()


def _followed(verdict: Verdict) -> Scores:
    scores: Scores = {("prompt followed", "%"): 100.0 * verdict.followed}
    if verdict.bounces is not None:
        scores["bounces heard", "%"] = 100.0 * verdict.bounces
    if verdict.pitch is not None:
        scores["pitch", "%"] = 100.0 * verdict.pitch
    return scores


def _judged(example: Example, frames: np.ndarray, wave: np.ndarray, prompt: str | None = None) -> Verdict:
    return judge(frames, FPS, wave, 48000, understand(prompt or example.prompt))


def recipe_of(name: str) -> Callable[[Maker, Example], Scores]:
    """The check of a recipe."""
    def check(maker: Maker, example: Example) -> Scores:
        size = LARGE if name in ("two_stage", "hq", "distilled") else SMALL
        return _followed(_judged(example, *maker.clip(example, recipe=name, **size)))
    return check


def first_frame(maker: Maker, example: Example) -> Scores:
    """An image holds the first frame, and the prompt is followed."""
    image = ImageCondition(torch.from_numpy(example.frames[0]), crf=0)
    frames, wave = maker.clip(example, conditions=[image])
    return {("first frame", "dB"): psnr(frames[0], example.frames[0]), **_followed(_judged(example, frames, wave))}


def keyframes(maker: Maker, example: Example) -> Scores:
    """First and last frame given: the shape ends where the last one has it."""
    images = [ImageCondition(torch.from_numpy(example.frames[place]), place, crf=0) for place in (0, -1)]
    frames, _ = maker.clip(example, conditions=images)
    made, want = look(frames, FPS), look(example.frames, FPS)
    apart = np.hypot(made.x[-1] - want.x[-1], made.y[-1] - want.y[-1])
    return {("last place within 0.1 heights", "%"): 100.0 * bool(apart < 0.1),
            ("last frame", "dB"): psnr(frames[-1], example.frames[-1])}


def retake(maker: Maker, example: Example) -> Scores:
    """A stretch is made anew with another seed; the rest stays."""
    frames, wave = maker.clip(example, conditions=[Retake(example.clip, *RETAKEN)])
    held, changed = maker.coded(example.frames), slice(9, 17)
    return {("held frames", "dB"): psnr(frames[:6], held[:6]), ("retaken frames", "dB"): psnr(frames[changed],
                                                                                            held[changed]),
            **_followed(_judged(example, frames, wave))}


def _goes_on(before: Seen, after: Seen) -> bool:
    """Whether a shape is the same and moves on to the same side."""
    way = [np.nanmean(part.x[-3:]) - np.nanmean(part.x[:3]) for part in (before, after)]
    return (before.colour, before.shape) == (after.colour, after.shape) and way[0] * way[1] > 0


def extend(maker: Maker, example: Example) -> Scores:
    """A clip goes on: same colour, shape and way in what was added."""
    source = replace(example.clip, frames=example.clip.frames[:25])
    frames, _ = maker.clip(example, frames=49, conditions=[Extend(source)])
    held = maker.coded(example.frames[:25])
    return {("held frames", "dB"): psnr(frames[:20], held[:20]),
            ("goes on", "%"): 100.0 * _goes_on(look(frames[:25], FPS), look(frames[25:], FPS))}


def inpaint(maker: Maker, example: Example) -> Scores:
    """The cells of the shape are made anew in another colour; the others stay."""
    height, width = example.frames.shape[1:3]
    background = np.median(example.frames, axis=(0, 2))[:, None]
    marked = (np.abs(example.frames - background).max(-1) > 40).any(0)
    cells = marked.reshape(height // 32, 32, width // 32, 32).any((1, 3))
    mask = np.kron(cells, np.ones((32, 32)))
    colour = next(name for name in COLOURS if name not in (example.request.colour, example.request.top,
                                                           example.request.bottom))
    prompt = write(np.random.default_rng(example.seed), replace(example.request, colour=colour))
    condition = Inpaint(example.clip, torch.from_numpy(mask.astype(np.float32))[None])
    frames, _ = maker.clip(example, prompt, conditions=[condition])
    held, outside = maker.coded(example.frames), np.kron(~cells, np.ones((32, 32))).astype(bool)
    return {("kept cells", "dB"): psnr(frames[:, outside], held[:, outside]),
            ("new colour", "%"): 100.0 * (look(frames, FPS).colour == colour)}


def audio_to_video(maker: Maker, example: Example) -> Scores:
    """The picture moves as the sound says, whatever the words: height by pitch, place by the two channels."""
    prompt = f"a {example.request.colour} {example.request.shape} on a {example.request.top} background"
    frames, wave = maker.clip(example, prompt, conditions=[SourceAudio(example.clip.audio)])
    verdict = _judged(example, frames, wave, prompt)
    return {("height fits the pitch", "%"): 100 * (verdict.pitch or 0.0),
            ("place off by", "% of the width"): 100 * (1.0 if verdict.pan is None else verdict.pan)}


def video_to_audio(maker: Maker, example: Example) -> Scores:
    """The sound fits a given picture."""
    frames, wave = maker.clip(example, conditions=[SourceVideo(example.clip)])
    verdict = judge(example.frames, FPS, wave, 48000, understand(example.prompt))
    return {key: value for key, value in _followed(verdict).items() if key[0] != "prompt followed"}


def long_video(maker: Maker, example: Example) -> Scores:
    """The seam of two windows is no event: no jump, same colour and shape on both sides."""
    frames, _ = maker.clip(example, frames=LONG, windows=Windows(WINDOW, OVERLAP))
    seen, seam = look(frames, FPS), WINDOW
    steps = np.hypot(np.diff(seen.x), np.diff(seen.y))
    jump = np.nanmax(steps[seam - 2:seam + 2]) <= 1.5 * np.nanpercentile(steps, 95) + 0.01
    sides = [look(part, FPS) for part in (frames[:seam], frames[seam:])]
    same = (sides[0].colour, sides[0].shape) == (sides[1].colour, sides[1].shape)
    return {("no jump at the seam", "%"): 100.0 * bool(jump), ("same colour and shape", "%"): 100.0 * same}


def lora(maker: Maker, example: Example) -> Scores:
    """The distilled LoRA as a user's own one: with it eight unguided steps follow the prompt."""
    settings = {"recipe": "custom", "sigmas": DISTILLED_SIGMAS, "guidance": Guidance()}
    result: Scores = {}
    for name, pipe in (("with the LoRA", maker.pipe.with_loras([Lora(maker.lora)])), ("without it", maker.pipe)):
        frames, wave = maker.clip(example, pipe=pipe, **settings)
        result[f"8 steps {name}", "%"] = 100.0 * _judged(example, frames, wave).followed
    return result


@dataclass(frozen=True)
class Check:
    """A check of a feature on examples of a length."""

    run: Callable[[Maker, Example], Scores]
    frames: int = SIZE[2]
    moving: bool = False


CHECKS: dict[str, Check] = {
    **{name: Check(recipe_of(name)) for name in ("one_stage", "two_stage", "hq", "distilled", "distilled_one_stage")},
    "first frame": Check(first_frame), "keyframes": Check(keyframes, moving=True), "retake": Check(retake),
    "extend": Check(extend, 49, moving=True), "inpaint": Check(inpaint), "audio to video": Check(audio_to_video),
    "video to audio": Check(video_to_audio), "long video": Check(long_video, LONG, moving=True), "LoRA": Check(lora)}


def measure(maker: Maker, count: int, names: Sequence[str] = tuple(CHECKS),
            keep: Path | None = None) -> list[list[object]]:
    """Rows of the table: each check on ``count`` examples; scores that ``keep`` has are not made again."""
    rows: list[list[object]] = []
    for name in names:
        check = CHECKS[name]
        store = KeptScores(keep, name, maker.identity)
        found: dict[tuple[str, str], list[float]] = {}
        for example in examples(count, check.frames, check.moving):
            scores = store.read(example.seed, example.prompt)
            if scores is None:
                scores = check.run(maker, example)
                store.write(example.seed, example.prompt, scores)
            for key, score in scores.items():
                found.setdefault(key, []).append(score)
        for (what, unit), values in found.items():
            rows.append([name, what, unit, round(float(np.mean(values)), 1), round(min(values), 1), len(values)])
            print(f"# {rows[-1]}", flush=True)
    return rows
