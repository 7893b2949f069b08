"""Train the distilled LoRA: eight steps of the official distilled schedule that follow the guided model's own path.

The guided model integrates from noise through all eight noise levels in small steps. Between two of them the LoRA
learns the straight way, from where the path is to where it will be.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from tools.tiny_world.train.bank import Bank, Models, negatives
from tools.tiny_world.train.common import Optimiser, Run, load_part
from tools.tiny_world.train.configs import LORA_RANK, SIZES
from tools.tiny_world.train.library import DISTILLED_SIGMAS, Pass, StreamInput
from tools.tiny_world.train.text import contexts
from tools.tiny_world.train.transformer import PARTS, Tables, fresh

LEARNING_RATE = 1e-3
CFG = (3.0, 3.0)
SUBSTEPS = (1, 1, 1, 2, 3, 5, 6, 9)        # of the guided model in each of the eight intervals
UPDATES = 16                               # steps of the LoRA on each set of paths
CLIPS, WORKERS = 8_000, 6


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

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self.models = Models.load(folder, device, dtype)
        self.modules = fresh(device)
        for part in PARTS:
            load_part(folder / "transformer.safetensors", part, self.modules[part])
            self.modules[part].to(dtype).requires_grad_(False)
        self.tables = Tables(self.modules["transformer"], device, dtype)
        self.bank = Bank(self.models, SIZES, CLIPS, seed, WORKERS if device.type == "cuda" else 0)
        self.nothing = negatives(self.models)

    def text(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts."""
        return contexts(self.modules["text_projection"], self.modules["connectors"], features, mask)

    @torch.no_grad()
    def path(self, count: int) -> tuple[list[list[Tensor]], Pass, tuple]:
        """States (video, audio) at the nine noise levels, the conditional pass, and the tables."""
        shelf = self.bank.shelves[int(torch.multinomial(torch.tensor(self.bank.weights), 1))]
        rows = torch.randint(shelf.filled, (count,), device=self.device)
        positive = Pass(*self.text(shelf.text[rows], shelf.mask[rows]))
        empty = self.text(self.nothing[0][:1], self.nothing[1][:1])
        passes = [positive, Pass(*(part.expand(count, -1, -1) for part in empty))]
        tables = self.tables.of(shelf.size.width, shelf.size.height, shelf.size.frames)
        x = [torch.randn(count, *part.shape[1:], device=self.device) for part in (shelf.video, shelf.audio)]
        states = [[part.clone() for part in x]]
        for begin, end, parts in zip(DISTILLED_SIGMAS, DISTILLED_SIGMAS[1:], SUBSTEPS, strict=False):
            levels = torch.linspace(begin, end, parts + 1).tolist()
            for sigma, after in zip(levels, levels[1:], strict=False):
                made = self.modules["transformer"](*streams_of(x, sigma, self.dtype), passes, tables)
                for stream in (0, 1):
                    v, away = made[0][stream].float(), made[1][stream].float()
                    x[stream] = x[stream] + (after - sigma) * (v + (CFG[stream] - 1) * (v - away))
            states.append([part.clone() for part in x])
        return states, positive, tables


def streams_of(x: Sequence[Tensor], sigma: float, dtype: torch.dtype) -> tuple[StreamInput, StreamInput]:
    """Both streams at one noise level."""
    level = torch.full((len(x[0]),), sigma, device=x[0].device)
    return StreamInput(x[0].to(dtype), level, level[:, None]), StreamInput(x[1].to(dtype), level, level[:, None])


def lessons(states: list[list[Tensor]]) -> Iterator[tuple[list[Tensor], float, list[Tensor]]]:
    """(state, noise level, mean velocity to the next level) of random intervals, without end."""
    while True:
        for index in torch.randperm(len(states) - 1).tolist():
            sigma, after = DISTILLED_SIGMAS[index], DISTILLED_SIGMAS[index + 1]
            way = [(a - b) / (sigma - after) for a, b in zip(states[index], states[index + 1], strict=True)]
            yield states[index], sigma, way


def train(folder: Path, minutes: float, device: torch.device, dtype: torch.dtype, batch: int = 192, seed: int = 10,
          steps: int | None = None) -> None:
    """Train, or go on training, until the time is over; writes distilled_lora.safetensors in the official form."""
    run = Run(folder, "lora", minutes, steps)
    teacher = Teacher(folder, device, dtype, seed)
    model = teacher.modules["transformer"]
    lora = Lora(model, device)
    optimiser = Optimiser({"lora": lora}, LEARNING_RATE, dtype, decay=0.0)
    run.resume(optimiser)
    teacher.bank.fill()
    going = True
    while going:
        states, positive, tables = teacher.path(batch)
        for (x, sigma, way), _ in zip(lessons(states), range(UPDATES), strict=False):
            given = (*streams_of(x, sigma, dtype), [positive], tables)
            made = functional_call(model, lora.weights(model), given)[0]
            parts = [(v.float() - want).square().mean() for v, want in zip(made, way, strict=True)]
            loss = parts[0] + parts[1]
            loss.backward()
            optimiser.step(run.done)
            going = run.after(optimiser, {"loss": loss, "video": parts[0], "audio": parts[1]})
            if not going:
                break
        teacher.bank.renew()
    teacher.bank.close()


def official_lora(folder: Path) -> dict[str, Tensor]:
    """The trained LoRA under official names."""
    lora = Lora(fresh(torch.device("cpu"))["transformer"], torch.device("cpu"))
    return lora.official(load_file(folder / "lora.safetensors"))
