"""Train the distilled LoRA: eight steps of the official distilled schedule that follow the guided model's own path.

The guided model integrates from noise through all eight noise levels in small steps. Between two of them the LoRA
learns the straight way, from where the path is to where it will be.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from tools.tiny_world.train.bank import CHUNK, Bank, Models, Shelf, negatives
from tools.tiny_world.train.common import Run, load_part
from tools.tiny_world.train.configs import LORA_RANK, SIZES, Size
from tools.tiny_world.train.library import DISTILLED_SIGMAS, Pass, StreamInput, plain_attention
from tools.tiny_world.train.optimiser import Optimiser
from tools.tiny_world.train.record import Recorder
from tools.tiny_world.train.text import contexts
from tools.tiny_world.train.transformer import PARTS, Tables, fresh, velocities

LEARNING_RATE = 1e-3
CFG = (3.0, 3.0)
SUBSTEPS = (1, 1, 1, 2, 2, 4, 5, 7)        # of the guided model in each of the eight intervals
UPDATES = 24                               # steps of the LoRA on each set of paths
CLIPS, WORKERS = 3_000, 6


class Lora(nn.Module):
    """Pairs A (rank, in) and B (out, rank) for every linear layer of the transformer's blocks."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        self.layers = [name for name, layer in model.named_modules()
                       if isinstance(layer, nn.Linear) and name.startswith("transformer_blocks.")]
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        for name in self.layers:
            layer = model.get_submodule(name)
            down = torch.randn(LORA_RANK, layer.in_features, generator=generator) / layer.in_features**0.5
            self.downs.append(nn.Parameter(down.to(device)))
            self.ups.append(nn.Parameter(torch.zeros(layer.out_features, LORA_RANK, device=device)))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Name -> weight of the model with the LoRA in it."""
        return {f"{name}.weight": model.get_submodule(name).weight + up @ down
                for name, down, up in zip(self.layers, self.downs, self.ups, strict=True)}

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The optimiser's tensors under the names of official LoRA files, bfloat16."""
        named: dict[str, Tensor] = {}
        for index, name in enumerate(self.layers):
            for part, letter in (("downs", "A"), ("ups", "B")):
                named[f"diffusion_model.{name}.lora_{letter}.weight"] = tensors[f"lora.{part}.{index}"].bfloat16()
        return named


class Teacher:
    """The trained model with guidance."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, seed: int, sizes: tuple[Size, ...],
                 clips: int, chunk: int, recorder: Recorder) -> None:
        self.device, self.dtype = device, dtype
        self.models = Models.load(folder, device, dtype)
        self.modules = fresh(device)
        for part in PARTS:
            load_part(folder / "transformer.safetensors", part, self.modules[part])
            self.modules[part].to(dtype).requires_grad_(False)
        self.tables = Tables(self.modules["transformer"], device, dtype)
        plain_attention(self.modules.values())
        self.bank = Bank(self.models, sizes, clips, seed, WORKERS if device.type == "cuda" else 0, chunk)
        self.nothing, self.recorder = negatives(self.models), recorder
        self._walks: dict[int, Walk] = {}

    def text(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts."""
        return contexts(self.modules["text_projection"], self.modules["connectors"], features, mask)

    @torch.no_grad()
    def path(self, number: int, count: int) -> tuple[list[list[Tensor]], tuple[Tensor, Tensor]]:
        """States (video, audio) of clips of a shelf's size at the nine noise levels, and their contexts."""
        shelf = self.bank.shelves[number]
        rows = torch.randint(shelf.filled, (count,), device=self.device)
        text = self.text(shelf.text[rows], shelf.mask[rows])
        if number not in self._walks:
            self._walks[number] = Walk(shelf, text, self.text(self.nothing[0][:1], self.nothing[1][:1]))
        walk = self._walks[number]
        walk.begin(text)
        states = [[part.clone() for part in walk.x]]
        for begin, end, parts in zip(DISTILLED_SIGMAS, DISTILLED_SIGMAS[1:], SUBSTEPS, strict=False):
            levels = torch.linspace(begin, end, parts + 1).tolist()
            for sigma, after in zip(levels, levels[1:], strict=False):
                walk.sigma.fill_(sigma)
                walk.after.fill_(after)
                self.recorder.step(("walk", number), partial(self.step, walk, shelf.size))
            states.append([part.clone() for part in walk.x])
        return states, text

    @torch.no_grad()
    def step(self, walk: Walk, size: Size) -> dict[str, Tensor]:
        """One guided Euler step."""
        tables = self.tables.of(size.width, size.height, size.frames)
        streams, model = list(streams_of(walk.x, walk.sigma, self.dtype)), self.modules["transformer"]
        made, away = (velocities(model, streams, Pass(*text), tables) for text in (walk.text, walk.nothing))
        for x, v, other, scale in zip(walk.x, made, away, CFG, strict=True):
            x.add_((walk.after - walk.sigma) * (v.float() + (scale - 1) * (v.float() - other.float())))
        return {}


class Walk:
    """What a guided step reads and writes, for clips of one size: tensors that stay where they are."""

    def __init__(self, shelf: Shelf, text: tuple[Tensor, Tensor], nothing: tuple[Tensor, Tensor]) -> None:
        count = len(text[0])
        self.x = [torch.zeros(count, *part.shape[1:], device=part.device) for part in (shelf.video, shelf.audio)]
        self.text = tuple(part.clone() for part in text)
        self.nothing = tuple(part.expand(count, -1, -1).contiguous() for part in nothing)
        self.sigma, self.after = (torch.ones((), device=part.device) for part in self.x)

    def begin(self, text: tuple[Tensor, Tensor]) -> None:
        """Noise and the contexts of a path."""
        for x in self.x:
            x.normal_()
        for target, value in zip(self.text, text, strict=True):
            target.copy_(value)


def streams_of(x: Sequence[Tensor], sigma: float | Tensor, dtype: torch.dtype) -> tuple[StreamInput, StreamInput]:
    """Both streams at one noise level."""
    level = torch.ones(len(x[0]), device=x[0].device) * sigma
    return StreamInput(x[0].to(dtype), level, level[:, None]), StreamInput(x[1].to(dtype), level, level[:, None])


class Lesson:
    """What one step of the LoRA reads, for clips of one size: tensors that stay where they are."""

    def __init__(self, states: list[list[Tensor]], text: tuple[Tensor, Tensor]) -> None:
        self.x = [part.clone() for part in states[0]]
        self.way = [part.clone() for part in states[0]]
        self.text = tuple(part.clone() for part in text)
        self.sigma = torch.ones((), device=text[0].device)

    def set(self, states: list[list[Tensor]], index: int) -> None:
        """One interval of a path: where it begins, its noise level, and the mean velocity to the next level."""
        sigma, after = DISTILLED_SIGMAS[index], DISTILLED_SIGMAS[index + 1]
        self.sigma.fill_(sigma)
        for x, way, a, b in zip(self.x, self.way, states[index], states[index + 1], strict=True):
            x.copy_(a)
            way.copy_((a - b) / (sigma - after))

    def hear(self, text: tuple[Tensor, Tensor]) -> None:
        """The contexts of a path."""
        for target, value in zip(self.text, text, strict=True):
            target.copy_(value)


class Pupil:
    """The LoRA on the model."""

    def __init__(self, teacher: Teacher, lora: Lora, optimiser: Optimiser) -> None:
        self.teacher, self.lora, self.optimiser = teacher, lora, optimiser
        self.model = _Velocities(teacher.modules["transformer"])

    def step(self, lesson: Lesson, size: Size) -> dict[str, Tensor]:
        """Learn one interval."""
        tables = self.teacher.tables.of(size.width, size.height, size.frames)
        streams = list(streams_of(lesson.x, lesson.sigma, self.teacher.dtype))
        weights = {f"model.{name}": value for name, value in self.lora.weights(self.model.model).items()}
        made = functional_call(self.model, weights, (streams, Pass(*lesson.text), tables))
        parts = [(v.float() - want).square().mean() for v, want in zip(made, lesson.way, strict=True)]
        loss = parts[0] + parts[1]
        loss.backward()
        self.optimiser.update()
        return {"loss": loss, "video": parts[0], "audio": parts[1]}


class _Velocities(nn.Module):
    """The model's forward for one pass as a module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, streams: list[StreamInput], given: Pass, tables: tuple) -> tuple[Tensor, Tensor]:
        return velocities(self.model, streams, given, tables)


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 96, seed: int = 10,
          steps: int | None = None, sizes: tuple[Size, ...] = SIZES, clips: int = CLIPS, chunk: int = CHUNK) -> None:
    """Train, or go on training, until the time is over."""
    run, recorder = Run(folder, "lora", minutes, steps), Recorder(device)
    with recorder.running():
        teacher = Teacher(folder, device, dtype, seed, sizes, clips, chunk, recorder)
        lora = Lora(teacher.modules["transformer"], device)
        optimiser = Optimiser({"lora": lora}, LEARNING_RATE, dtype, decay=0.0)
        run.resume(optimiser)
        teacher.bank.fill()
        practise(Pupil(teacher, lora, optimiser), run, recorder, batch)
    teacher.bank.close()


def practise(pupil: Pupil, run: Run, recorder: Recorder, batch: int) -> None:
    """The steps of a run."""
    bank, lessons = pupil.teacher.bank, {}
    while True:
        number = int(torch.multinomial(torch.tensor(bank.weights), 1))
        shelf = bank.shelves[number]
        states, text = pupil.teacher.path(number, batch)
        if number not in lessons:
            lessons[number] = Lesson(states, text)
        lesson = lessons[number]
        lesson.hear(text)
        for index in torch.arange(UPDATES) % (len(states) - 1):
            lesson.set(states, int(index))
            pupil.optimiser.aim(run.done)
            terms = recorder.step(("lesson", number), partial(pupil.step, lesson, shelf.size))
            if not run.after(pupil.optimiser, terms):
                return
        bank.renew()


def official_lora(folder: Path) -> dict[str, Tensor]:
    """The trained LoRA under official names."""
    model = fresh(torch.device("cpu"))["transformer"]
    lora = Lora(model, torch.device("cpu"))
    return lora.official(load_file(folder / "lora.safetensors")) | unmoved(model)


def unmoved(model: nn.Module) -> dict[str, Tensor]:
    """Pairs that change nothing, for the linear layers outside the blocks, which are not trained: the official file,
    the difference of two checkpoints, has all layers, and is known by that."""
    named: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and not name.startswith("transformer_blocks."):
            shapes = {"A": (1, layer.in_features), "B": (layer.out_features, 1)}
            for letter, shape in shapes.items():
                named[f"diffusion_model.{name}.lora_{letter}.weight"] = torch.zeros(shape, dtype=torch.bfloat16)
    return named
