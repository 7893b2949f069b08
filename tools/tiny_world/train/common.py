"""What every training run shares: modules with weights, optimiser, time budget, files, log, data on the device."""
from __future__ import annotations

import json
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx23_core.atomic import publish, temporary_beside
from tools.tiny_world.train.library import build
from tools.tiny_world.train.optimiser import Optimiser

Item = TypeVar("Item")
SAVE_EVERY = 45.0     # seconds
LOG_EVERY = 5.0       # seconds


def pick_device(name: str = "auto") -> torch.device:
    """The device to train on; sets what a GPU needs to be fast."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch.device(name)


def make(component: str, config: Mapping[str, Any], device: torch.device, seed: int = 0) -> nn.Module:
    """A component of the library with fresh float32 weights that can be trained."""
    module = build(component, config).to_empty(device=device).requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            parameter.data.copy_(_initial(owner, name, parameter, generator))
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_floating_point():
                buffer.copy_(torch.ones(buffer.shape) if name.startswith("std") else torch.zeros(buffer.shape))
    return module


def _initial(owner: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh values: scaled normal for matrices and kernels, ones for norms, zeros for biases."""
    shape = tuple(parameter.shape)
    if name == "bias" or name in ("alpha", "beta"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    if name == "learnable_registers":
        return torch.randn(shape, generator=generator)
    if name.endswith("table") or "scale_shift_table" in name:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
    fan_in = math.prod(shape[1:])
    if isinstance(owner, nn.ConvTranspose1d):
        fan_in = shape[0] * shape[2] // owner.stride[0]
    return torch.randn(shape, generator=generator) / math.sqrt(fan_in)


@torch.no_grad()
def scale(module: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiply fresh weights whose names match a pattern: branches begin small, so that depth does no harm."""
    for name, parameter in module.named_parameters():
        for pattern, factor in factors.items():
            if re.search(pattern, name):
                parameter.mul_(factor)


@dataclass
class Run:
    """One training run: its folder, its end, its log.

    Attributes:
        folder: where files are read from (to resume) and written to.
        name: of the component.
        minutes: budget; measured from the creation of this object.
        steps: end after so many steps, if it comes first.
        buffers: what is saved beside the parameters: name -> function that gives the tensor.
    """

    folder: Path
    name: str
    minutes: float
    steps: int | None = None
    buffers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved, self._logged, self._step = time.monotonic(), 0.0, 0
        self._sums: dict[str, list[Tensor]] = {}
        self._rate = (time.monotonic(), 0)

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def done(self) -> float:
        """Share of the run that is over."""
        share = (time.monotonic() - self.started) / (60 * self.minutes)
        return max(share, self._step / self.steps if self.steps else 0.0)

    def resume(self, optimiser: Optimiser) -> bool:
        """Load what an earlier run saved."""
        if not self.path.is_file():
            return False
        found = optimiser.load(load_file(self.path))
        print(f"{self.name}: resumed {found} of {len(optimiser.names)} tensors", flush=True)
        return found > 0

    def after(self, optimiser: Optimiser, losses: Mapping[str, Tensor]) -> bool:
        """Call after every step: logs, saves, and says whether to go on."""
        self._step += 1
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value.detach())
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY or self._step == 1 or self.done >= 1:
            self._log(now)
        if now - self._saved >= SAVE_EVERY or self.done >= 1:
            self.save(optimiser)
            self._saved = time.monotonic()
        return self.done < 1

    def _log(self, now: float) -> None:
        then, step = self._rate
        row = {"component": self.name, "step": self._step, "seconds": round(now - self.started, 1),
               "steps_per_second": round((self._step - step) / max(now - then, 1e-6), 2),
               **{name: round(float(torch.stack(values).float().mean()), 6) for name, values in self._sums.items()}}
        self._sums.clear()
        self._rate, self._logged = (now, self._step), now
        print(json.dumps(row), flush=True)
        with (self.folder / f"log-{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, optimiser: Optimiser) -> None:
        """Write the weights, whole or not at all."""
        tensors = optimiser.tensors()
        tensors.update({name: read().float().cpu().contiguous() for name, read in self.buffers.items()})
        write_tensors(tensors, self.path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    temporary = temporary_beside(path)
    own = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    save_file(own, temporary, metadata=metadata)
    publish(temporary, path)


def load_part(path: Path, part: str, module: nn.Module) -> None:
    """Fill a module from the tensors of a training file that begin with ``part.``; all of them must be there."""
    tensors = {name.removeprefix(f"{part}."): value for name, value in load_file(path).items()
               if name.startswith(f"{part}.")}
    module.load_state_dict(tensors, strict=True)


def ahead(make_item: Callable[[int], Item], depth: int = 3, workers: int = 2) -> Iterable[Item]:
    """Items 0, 1, 2, … made by threads before they are asked for, in any order."""
    items: queue.Queue[Item | BaseException] = queue.Queue(depth)
    numbers = iter(range(1 << 60))
    lock = threading.Lock()

    def work() -> None:
        try:
            while True:
                with lock:
                    number = next(numbers)
                items.put(make_item(number))
        except BaseException as error:  # handed on to whoever waits
            items.put(error)

    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    while True:
        item = items.get()
        if isinstance(item, BaseException):
            raise item
        yield item


def generator_of(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one batch of one run."""
    return np.random.default_rng((seed, number))
