"""Train the transformer and the text connectors: rectified flow on the latents of the world (spec/07 §1).

Every step has one kind, the same for the whole batch: what is given (nothing, the first frame, a beginning, the
sound, the picture, frames here and there) and which pass of guidance it practises (plain, without the cross-modal
attentions, without the self attention that STG skips). Prompts are left out at random for classifier-free guidance.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.tiny_world.train.bank import Bank, Models, Shelf, negatives
from tools.tiny_world.train.common import Optimiser, Run, generator_of, make, scale
from tools.tiny_world.train.configs import FPS, LAYERS, SIZES, TEXT_PROJECTION, TRANSFORMER, Size
from tools.tiny_world.train.library import (
    Pass,
    Perturbation,
    StreamInput,
    audio_latent_length,
    audio_positions,
    stg_block,
    video_grid,
    video_positions,
)
from tools.tiny_world.train.text import contexts

LEARNING_RATE, WARMUP = 1.5e-3, 300
DRAWS = 4                    # noise levels a clip and step: the text side is then computed once for four
DROP_PROMPT = 0.12
SHIFT, UNIFORM_SHARE = 1.2, 0.1
AUDIO_WEIGHT = 0.7
RENEW_EVERY = 4              # steps
CLIPS, WORKERS = 24_000, 8
PARTS = ("transformer", "connectors", "text_projection")
# What a step gives to the model -> how often.
KINDS = {"text": 0.62, "image": 0.14, "beginning": 0.05, "sound": 0.05, "picture": 0.03, "frames": 0.04,
         "apart": 0.04, "stg": 0.03}


@dataclass(frozen=True)
class Masks:
    """Which tokens are generated: (N,) bool each, None: all; and which stream is frozen."""

    video: Tensor | None = None
    audio: Tensor | None = None
    video_frozen: bool = False
    audio_frozen: bool = False


def masks_of(kind: str, size: Size, rng: np.random.Generator, device: torch.device) -> Masks:
    """What is given in a step of a kind."""
    grid = video_grid(size.width, size.height, size.frames)
    steps, cell, length = grid.frames, grid.height * grid.width, audio_latent_length(size.frames, FPS)

    def video(given: np.ndarray) -> Tensor:
        return torch.from_numpy(np.repeat(~given, cell)).to(device)

    if kind == "image":
        return Masks(video(np.arange(steps) == 0))
    if kind == "beginning":
        known = int(rng.integers(1, steps))
        seconds = (8 * (known - 1) + 1) / FPS
        heard = torch.arange(length) >= round(seconds * length / size.seconds)
        return Masks(video(np.arange(steps) < known), heard.to(device))
    if kind == "frames":
        given = rng.random(steps) < 0.5
        given[rng.integers(steps)] = False
        both = rng.random() < 0.5
        heard = torch.from_numpy(~np.repeat(given, -(-length // steps))[:length]).to(device) if both else None
        return Masks(video(given), heard)
    if kind == "sound":
        return Masks(audio_frozen=True)
    return Masks(video_frozen=True) if kind == "picture" else Masks()


def perturbation_of(kind: str) -> Perturbation:
    """The perturbed passes of guidance (spec/02 §9)."""
    if kind == "apart":
        return Perturbation(cross=True)
    if kind == "stg":
        block = frozenset({stg_block(LAYERS)})
        return Perturbation(block, block)
    return Perturbation()


def draw_sigmas(count: int, device: torch.device) -> Tensor:
    """(B,) noise levels: logit-normal, moved towards noise as the schedule is; some uniform."""
    middle = torch.sigmoid(torch.randn(count, device=device) + SHIFT)
    uniform = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < UNIFORM_SHARE, uniform, middle).clamp(0.002, 1)


def noisy_stream(clean: Tensor, noise: Tensor, sigma: Tensor, generated: Tensor | None, frozen: bool) -> StreamInput:
    """One stream at one noise level; given tokens are clean and have timestep 0."""
    if frozen:
        zero = torch.zeros_like(sigma)
        return StreamInput(clean, zero, zero[:, None])
    level = sigma[:, None, None]
    mixed = torch.lerp(clean.float(), noise.float(), level).to(clean.dtype)
    if generated is None:
        return StreamInput(mixed, sigma, sigma[:, None])
    mixed = torch.where(generated[:, None], mixed, clean)
    levels = torch.stack([torch.zeros_like(sigma), sigma], dim=1)
    return StreamInput(mixed, sigma, levels, generated.long())


class Tables:
    """Rotary tables of a size, made once."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype
        self._made: dict[tuple[int, int, int], tuple] = {}

    def of(self, width: int, height: int, frames: int) -> tuple:
        """As `Transformer.forward` takes them."""
        key = (width, height, frames)
        if key not in self._made:
            positions = video_positions(video_grid(*key), FPS), audio_positions(audio_latent_length(frames, FPS))
            self._made[key] = self._model.tables(*(part.to(self._device) for part in positions), self._dtype)
        return self._made[key]


def velocity_loss(made: Tensor, clean: Tensor, noise: Tensor, generated: Tensor | None) -> Tensor:
    """Mean squared error of the velocity noise - clean over generated tokens."""
    error = (made.float() - (noise.float() - clean.float())).square().mean(-1)
    return error.mean() if generated is None else (error * generated).sum() / (generated.sum() * len(error))


class Trainer:
    """Modules and data of a run."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, seed: int, clips: int, workers: int,
                 sizes: tuple[Size, ...] = SIZES) -> None:
        self.device, self.dtype, self.seed = device, dtype, seed
        self.models = Models.load(folder, device, dtype)
        self.negative, self.negative_mask = negatives(self.models)
        self.bank = Bank(self.models, sizes, clips, seed, workers)
        self.modules = fresh(device)
        self.tables = Tables(self.modules["transformer"], device, dtype)

    def prompts(self, shelf: Shelf, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and mask of clips' prompts, some of them replaced by a negative one."""
        count, length = len(rows), self.negative.shape[1]
        text = self.negative.new_zeros(count, length, self.negative.shape[2])
        mask = self.negative_mask.new_zeros(count, length)
        text[:, :shelf.text.shape[1]], mask[:, :shelf.mask.shape[1]] = shelf.text[rows], shelf.mask[rows].to(mask.dtype)
        which = torch.randint(len(self.negative), (count,), device=self.device)
        drop = torch.rand(count, device=self.device) < DROP_PROMPT
        return (torch.where(drop[:, None, None], self.negative[which], text),
                torch.where(drop[:, None], self.negative_mask[which], mask))

    def losses(self, shelf: Shelf, kind: str, rng: np.random.Generator, batch: int) -> dict[str, Tensor]:
        """One step's loss."""
        rows = torch.randint(shelf.filled, (batch,), device=self.device)
        text = contexts(self.modules["text_projection"], self.modules["connectors"], *self.prompts(shelf, rows))
        text = tuple(part.repeat_interleave(DRAWS, 0) for part in text)
        clean = [part[rows].repeat_interleave(DRAWS, 0) for part in (shelf.video, shelf.audio)]
        noise = [torch.randn_like(part) for part in clean]
        sigma = draw_sigmas(batch * DRAWS, self.device)
        given = masks_of(kind, shelf.size, rng, self.device)
        streams = (noisy_stream(clean[0], noise[0], sigma, given.video, given.video_frozen),
                   noisy_stream(clean[1], noise[1], sigma, given.audio, given.audio_frozen))
        tables = self.tables.of(shelf.size.width, shelf.size.height, shelf.size.frames)
        made = self.modules["transformer"](*streams, [Pass(*text, perturbation_of(kind))], tables)[0]
        video = velocity_loss(made[0], clean[0], noise[0], given.video)
        sound = velocity_loss(made[1], clean[1], noise[1], given.audio)
        loss = video * (not given.video_frozen) + AUDIO_WEIGHT * sound * (not given.audio_frozen)
        result = {"loss": loss}
        if kind == "text":
            result.update({"video": video, "audio": sound})
        return result


def fresh(device: torch.device) -> dict[str, nn.Module]:
    """New modules. Branches begin small and the output at nothing."""
    modules = {name: make(name, config, device, number) for number, (name, config) in enumerate(
        (("transformer", TRANSFORMER), ("connectors", TRANSFORMER), ("text_projection", TEXT_PROJECTION)))}
    small = {r"to_out.0.weight": 0.3, r"ff.net.2.weight": 0.3}
    scale(modules["transformer"], {**small, r"adaln_single.linear.weight": 0.1, r"proj_out.weight": 0.02})
    scale(modules["connectors"], small)
    with torch.no_grad():  # gates begin open, or the text would have to open them first
        for name, table in modules["transformer"].named_parameters():
            if name.endswith("scale_shift_table") and table.shape[0] == 9:
                table[[2, 5, 8]] += 0.5
            if "a2v_ca" in name and table.shape[0] == 5:
                table[4] += 0.5
    return modules


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 96, seed: int = 4,
          steps: int | None = None, clips: int = CLIPS, workers: int = WORKERS,
          sizes: tuple[Size, ...] = SIZES) -> None:
    """Train, or go on training, until the time is over. ``batch`` counts clips; each is used `DRAWS` times a step."""
    run = Run(folder, "transformer", minutes, steps)
    trainer = Trainer(folder, device, dtype, seed, clips, workers, sizes)
    optimiser = Optimiser(trainer.modules, LEARNING_RATE, dtype, WARMUP)
    resumed = run.resume(optimiser)
    trainer.bank.seed += 1000 * resumed
    trainer.bank.fill()
    print(f"transformer: bank of {clips} clips after {run.done * 60 * minutes:.1f} s", flush=True)
    rng = generator_of(seed + 1000 * resumed, 1 << 31)
    kinds, shares = list(KINDS), list(KINDS.values())
    while True:
        shelf = trainer.bank.shelves[rng.choice(len(sizes), p=trainer.bank.weights)]
        cells = (shelf.size.frames // 8 + 1) * shelf.size.width * shelf.size.height / 1024 / 96
        terms = trainer.losses(shelf, str(rng.choice(kinds, p=shares)), rng, max(2, int(batch / max(cells, 1))))
        terms["loss"].backward()
        optimiser.step(run.done)
        if not run.after(optimiser, terms):
            break
        if optimiser.steps % RENEW_EVERY == 0:
            trainer.bank.renew()
    trainer.bank.close()
