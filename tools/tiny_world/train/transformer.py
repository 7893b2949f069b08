"""Train the transformer and the text connectors: rectified flow on the latents of the world (spec/07 §1).

Every step has a kind: "plain"; "given", where each clip has something that is not generated (`given.py`); "key",
where a frame at some moment is appended; and the passes of guidance, "apart" (without the cross-modal attentions) and
"stg" (without the self attention that it skips). Prompts are left out at random for classifier-free guidance.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.tiny_world.train.bank import CHUNK, Bank, Models, Shelf, negatives
from tools.tiny_world.train.common import Run, generator_of, make, scale
from tools.tiny_world.train.configs import FPS, LAYERS, SIZES, TEXT_PROJECTION, TRANSFORMER, Size
from tools.tiny_world.train.given import given_of, nothing
from tools.tiny_world.train.library import (
    TEXT_TOKENS,
    Pass,
    Perturbation,
    StreamInput,
    StreamTables,
    audio_latent_length,
    audio_positions,
    plain_attention,
    stg_block,
    video_grid,
    video_positions,
)
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.record import Recorder
from tools.tiny_world.train.text import contexts

LEARNING_RATE, WARMUP = 1.5e-3, 300
DRAWS = 4                    # noise levels a clip and step: the text side is then computed once for four
DROP_PROMPT = 0.12
SHIFT, UNIFORM_SHARE = 1.2, 0.1
AUDIO_WEIGHT = 1.2
RENEW_EVERY = 60             # steps
CLIPS, WORKERS = 24_000, 8
PARTS = ("transformer", "connectors", "text_projection")
KINDS = {"plain": 0.62, "given": 0.25, "key": 0.06, "apart": 0.04, "stg": 0.03}     # how often
SHORT_TEXT = 192             # tokens: few registers, among which prompts are found sooner, and half the time of a step
SHORT_UNTIL, SHORT_SHARE, LONG_FROM = 0.15, 0.7, 0.6     # parts of a run; how often in between


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


def noisy_stream(clean: Tensor, noise: Tensor, sigma: Tensor, generated: Tensor | None) -> StreamInput:
    """One stream at noise levels (B,); tokens that are not generated (B, N) are clean and have timestep 0."""
    levels = sigma[:, None] if generated is None else sigma[:, None] * generated
    mixed = torch.lerp(clean.float(), noise.float(), levels[..., None]).to(clean.dtype)
    if generated is not None:
        sigma = sigma * generated.amax(1)  # a stream that is given as a whole has the sigma 0
    return StreamInput(mixed, sigma, levels)


class Tables:
    """Rotary tables of a size, made once."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model, device, dtype
        self._made: dict[tuple[int, int, int], tuple] = {}
        self._keys: dict[tuple[int, int, int], StreamTables] = {}

    def of(self, width: int, height: int, frames: int) -> tuple:
        """As `Transformer.forward` takes them."""
        key = (width, height, frames)
        if key not in self._made:
            positions = video_positions(video_grid(*key), FPS), audio_positions(audio_latent_length(frames, FPS))
            self._made[key] = self._model.tables(*(part.to(self._device) for part in positions), self._dtype)
        return self._made[key]

    def keys(self, width: int, height: int, frames: int) -> StreamTables:
        """Tables (frames, cell, …) of one appended frame, by its number."""
        key = (width, height, frames)
        if key not in self._keys:
            grid = video_grid(width, height, 1)
            places = torch.cat([video_positions(grid, FPS, start_frame=number) for number in range(frames)])
            self._keys[key] = self._model.tables(places.to(self._device), None, self._dtype)[0]
        return self._keys[key]

    def with_key(self, size: Size, moments: Tensor) -> tuple:
        """As `of`, with a frame appended at the moment (B,) of each clip."""
        (own, sound), keys = self.of(size.width, size.height, size.frames), self.keys(size.width, size.height,
                                                                                     size.frames)
        ropes = []
        for tables, more in ((own.rope, keys.rope), (own.cross_rope, keys.cross_rope)):
            ropes.append(tuple(torch.cat([table.expand(len(moments), -1, -1), extra[moments]], dim=1)
                               for table, extra in zip(tables, more, strict=True)))
        return StreamTables(*ropes), sound


def velocity_loss(made: Tensor, clean: Tensor, noise: Tensor, generated: Tensor | None) -> Tensor:
    """Mean squared error of the velocity noise - clean over generated tokens (B, N)."""
    error = (made[:, :clean.shape[1]].float() - (noise.float() - clean.float())).square().mean(-1)
    return error.mean() if generated is None else (error * generated).sum() / generated.sum().clamp(min=1)


class Trainer:
    """Modules and data of a run."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, seed: int, clips: int, workers: int,
                 sizes: tuple[Size, ...] = SIZES, chunk: int = CHUNK) -> None:
        self.device, self.dtype, self.seed = device, dtype, seed
        self.models = Models.load(folder, device, dtype)
        self.negative, self.negative_mask = negatives(self.models)
        self.bank = Bank(self.models, sizes, clips, seed, workers, chunk)
        self.modules = fresh(device)
        self.tables = Tables(self.modules["transformer"], device, dtype)
        for size in sizes:  # before anything is recorded
            self.tables.of(size.width, size.height, size.frames)
            self.tables.keys(size.width, size.height, size.frames)

    def prompts(self, shelf: Shelf, rows: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Features and mask of clips' prompts, some of them replaced by a negative one that is short enough."""
        count, length = len(rows), min(self.negative.shape[1], tokens)
        text = self.negative.new_zeros(count, length, self.negative.shape[2])
        mask = self.negative_mask.new_zeros(count, length)
        text[:, :shelf.text.shape[1]], mask[:, :shelf.mask.shape[1]] = shelf.text[rows], shelf.mask[rows].to(mask.dtype)
        which = torch.randint(len(self.negative), (count,), device=self.device)
        drop = torch.rand(count, device=self.device) < DROP_PROMPT
        return (torch.where(drop[:, None, None], self.negative[which, :length], text),
                torch.where(drop[:, None], self.negative_mask[which, :length], mask))

    def losses(self, shelf: Shelf, kind: str, batch: int, tokens: int) -> dict[str, Tensor]:
        """One step's loss; ``tokens`` of text."""
        rows = torch.randint(shelf.filled, (batch,), device=self.device)
        text = contexts(self.modules["text_projection"], self.modules["connectors"],
                        *self.prompts(shelf, rows, tokens), tokens)
        text = tuple(part.repeat_interleave(DRAWS, 0) for part in text)
        rows = rows.repeat_interleave(DRAWS)
        clean = [part[rows] for part in (shelf.video, shelf.audio)]
        noise = [torch.randn_like(part) for part in clean]
        sigma = draw_sigmas(len(rows), self.device)
        given = given_of(shelf.size, len(rows), self.device) if kind == "given" else nothing()
        streams = [noisy_stream(*pair, sigma, part) for pair, part in
                   zip(zip(clean, noise, strict=True), (given.video, given.audio), strict=True)]
        size = shelf.size
        tables = self.tables.of(size.width, size.height, size.frames)
        if kind == "key":
            streams[0] = with_key(streams[0], shelf.key[rows])
            tables = self.tables.with_key(size, shelf.moment[rows])
        made = velocities(self.modules["transformer"], streams, Pass(*text, perturbation_of(kind)), tables)
        video = velocity_loss(made[0], clean[0], noise[0], given.video)
        sound = velocity_loss(made[1], clean[1], noise[1], given.audio)
        result = {"loss": video + AUDIO_WEIGHT * sound}
        if kind == "plain":
            result.update({"video": video, "audio": sound})
        return result


def with_key(stream: StreamInput, key: Tensor) -> StreamInput:
    """A stream with the clean tokens of one frame (B, cell, 128) behind it."""
    levels = stream.timesteps.expand(-1, stream.latent.shape[1])
    return StreamInput(torch.cat([stream.latent, key], 1), stream.sigma,
                       torch.cat([levels, levels.new_zeros(key.shape[:2])], 1))


def velocities(model: nn.Module, streams: list[StreamInput], given: Pass, tables: tuple) -> tuple[Tensor, Tensor]:
    """The model's forward for one pass, without its own recording."""
    work = model.pieces(*streams, [given], tables)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value[0]


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


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 64, seed: int = 4,
          steps: int | None = None, clips: int = CLIPS, workers: int = WORKERS,
          sizes: tuple[Size, ...] = SIZES, chunk: int = CHUNK, rate: float = LEARNING_RATE) -> None:
    """Train, or go on training, until the time is over. ``batch`` counts clips; each is used `DRAWS` times a step."""
    run, recorder = Run(folder, "transformer", minutes, steps), Recorder(device)
    with recorder.running():
        trainer = Trainer(folder, device, dtype, seed, clips, workers, sizes, chunk)
        optimiser = Optimiser(trainer.modules, rate, dtype, WARMUP)
        plain_attention(trainer.modules.values())
        resumed = run.resume(optimiser)
        trainer.bank.seed += 1000 * resumed
        trainer.bank.fill()
        print(f"transformer: bank of {clips} clips after {run.done * 60 * minutes:.1f} s", flush=True)
        practise(trainer, optimiser, run, recorder, batch, not resumed)
    trainer.bank.close()


def text_length(done: float, fresh_run: bool, rng: np.random.Generator) -> int:
    """Tokens of text in a step: all of a fresh run's beginning is short, the end of every run is as in use."""
    if fresh_run and done < SHORT_UNTIL:
        return SHORT_TEXT
    return SHORT_TEXT if done < LONG_FROM and rng.random() < SHORT_SHARE else TEXT_TOKENS


def practise(trainer: Trainer, optimiser: Optimiser, run: Run, recorder: Recorder, batch: int, fresh_run: bool) -> None:
    """The steps of a run."""
    rng = generator_of(trainer.seed + 1000 * (not fresh_run), 1 << 31)
    kinds, shares = list(KINDS), list(KINDS.values())
    going = True
    while going:
        shelf = trainer.bank.shelves[rng.choice(len(trainer.bank.sizes), p=trainer.bank.weights)]
        cells = (shelf.size.frames // 8 + 1) * shelf.size.width * shelf.size.height / 1024 / 96
        clips, kind = max(2, int(batch / max(cells, 1))), str(rng.choice(kinds, p=shares))
        tokens = text_length(run.done, fresh_run, rng)

        def step(shelf: Shelf = shelf, kind: str = kind, clips: int = clips, tokens: int = tokens) -> dict[str, Tensor]:
            terms = trainer.losses(shelf, kind, clips, tokens)
            terms["loss"].backward()
            optimiser.update()
            return terms

        optimiser.aim(run.done)
        going = run.after(optimiser, recorder.step((id(shelf), kind, tokens), step))
        if optimiser.steps % RENEW_EVERY == 0:
            trainer.bank.renew()
