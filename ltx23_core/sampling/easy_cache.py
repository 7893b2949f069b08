"""EasyCache (Zhou et al. 2025, "Less is Enough: Training-Free Video Diffusion Acceleration via Runtime-Adaptive
Caching"): a model call is left out while the change that is expected of it stays small. Lossy, off by default.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

from ..models.transformer.inputs import StreamInput
from ..models.transformer.model import Velocities
from ..ops.record import pinned

FIRST = 4      # calls of a run that are always made: there the rate of change is not steady
POLL = 0.0005  # seconds between two looks at the device
Inputs = Mapping[str, StreamInput]


class Seen:
    """One stream at the last call, made or left out.

    Attributes:
        x: its tokens; velocity: of the first pass.
        rate: change of the velocity over change of the tokens between the last two calls that were made; None: not yet.
    """

    def __init__(self, x: Tensor, velocity: Tensor, rate: Tensor | None) -> None:
        self.x, self.velocity, self.rate = x, velocity, rate


def size(x: Tensor) -> Tensor:
    """Mean absolute value, float32, on the device."""
    return x.float().abs().mean()


class EasyCache:
    """What a run remembers of its model calls, and what it takes in their place.

    With the tokens x and the velocity v of a call, v - x of the last call that was made stands for the velocity at
    other tokens: v = x' + (v - x). The expected relative change of a call is rate ‖x' - x‖ / ‖v‖ (mean absolute values,
    the larger one of both streams); it adds up over the calls that are left out, and the call is made where the sum
    reaches the threshold.

    Args:
        threshold: above 0.
        check: called while the host waits for the one number that it needs; may raise to interrupt.
    """

    def __init__(self, threshold: float, check: Callable[[], None] | None = None) -> None:
        self._threshold, self._check = threshold, check
        self._key: Hashable = None
        self._seen: dict[str, Seen] = {}
        self._differences: list[dict[str, Tensor]] = []
        self._sum, self.made, self.left_out = 0.0, 0, 0

    def __call__(self, inputs: Inputs, key: Hashable, model: Callable[[], list[Velocities]]) -> list[Velocities]:
        """Velocities of every pass, by a call of the model or without it.

        Args:
            inputs: the streams.
            key: equal for calls that ask for the same passes.
            model: makes the call.
        """
        same = key == self._key
        if same and self._leaves_out(inputs):
            self.left_out += 1
            return self._in_its_place(inputs)
        made = model()
        if not same:
            self._seen = {}
        self._key, self._sum = key, 0.0
        self.made += 1
        self._remember(inputs, made)
        return made

    def _leaves_out(self, inputs: Inputs) -> bool:
        """Whether the expected change is small enough so far."""
        expected: list[Tensor] = []
        for name, seen in self._seen.items():
            if seen.rate is None:
                return False
            change = size(inputs[name].latent.float() - seen.x.float())
            expected.append(seen.rate * change / size(seen.velocity).clamp(min=1e-12))
        if not expected or self.made + self.left_out < FIRST:
            return False
        self._sum += self._read(torch.stack(expected).amax())
        return self._sum < self._threshold

    def _read(self, value: Tensor) -> float:
        """A number of the device; the host waits for the step before, as it would not else."""
        if not value.is_cuda:
            return value.item()
        host = pinned((), value.dtype)
        host.copy_(value, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        while not ready.query():
            if self._check is not None:
                self._check()
            time.sleep(POLL)
        return host.item()

    def _in_its_place(self, inputs: Inputs) -> list[Velocities]:
        """What the last call gives at these tokens."""
        made: list[Velocities] = []
        for number, kept in enumerate(self._differences):
            found: dict[str, Tensor] = {}
            for name, difference in kept.items():
                x = inputs[name].latent
                found[name] = (x.float() + difference).to(x.dtype)
                if number == 0:
                    self._seen[name] = Seen(x, found[name], self._seen[name].rate)
            made.append((found.get("video"), found.get("audio")))
        return made

    def _remember(self, inputs: Inputs, made: list[Velocities]) -> None:
        """A call that was made."""
        self._differences = []
        for number, velocities in enumerate(made):
            kept: dict[str, Tensor] = {}
            for name, velocity in zip(("video", "audio"), velocities, strict=True):
                if velocity is not None:
                    x = inputs[name].latent
                    kept[name] = velocity.float() - x.float()
                    if number == 0:
                        self._seen[name] = Seen(x, velocity, self._rate(name, x, velocity))
            self._differences.append(kept)

    def _rate(self, name: str, x: Tensor, velocity: Tensor) -> Tensor | None:
        """Change of the velocity over change of the tokens since the call before."""
        before = self._seen.get(name)
        if before is None:
            return None
        moved = size(x.float() - before.x.float()).clamp(min=1e-12)
        return size(velocity.float() - before.velocity.float()) / moved
