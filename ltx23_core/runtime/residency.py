"""Which components are on the device, outside ComfyUI (inside it, ComfyUI's own memory management decides)."""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol
from weakref import WeakSet

import torch

from ..memory.memory_plan import plan_line
from ..memory.ram import available_ram
from ..memory.room import Memory, first_fitting, fits_whole, gb, place, refusal
from .component import Component
from .policy import policy_for
from .second_try import shrink

log = logging.getLogger("ltx23")

SECOND_TRY = 0.8  # of the memory that is free, after an allocation has failed
RESERVE_BYTES = 1 << 30  # for the allocator's fragments and the library's workspaces


class Residency(Protocol):
    """What the pipeline asks before each stage."""

    device: torch.device  # of the transformer

    def device_of(self, name: str) -> torch.device:
        """Where the component of that name runs: a host may want its text encoder or its VAEs on the CPU."""

    @property
    def capacity_bytes(self) -> float:
        """Bytes that weights and activations could take together if all other components left the device."""

    @property
    def wish(self) -> Memory:
        """How much of the device the weights may take."""

    def choose(self, *components: Component, activations: Sequence[int]) -> int:
        """Which of several ways to use them, by the bytes that each needs beside them, the best first, has room."""

    def has_room(self, *components: Component, activation_bytes: int) -> bool:
        """Whether these, whole, and so many bytes beside them have room now, so that nothing would leave for them."""

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        """Make sure these components are on the device and this many bytes are free beside them.

        ``how``: what else the plan's line says of the work.
        """

    def use_less(self, component: Component, activation_bytes: int) -> bool:
        """After `use`, more than the planned activations were needed: give some of the weights back, if any can be."""

    def check(self) -> None:
        """Raise to interrupt the run; called once a block, layer or tile."""

    def counting(self, checks: int) -> AbstractContextManager[None]:
        """While this holds, about so many calls of `check` are all of the work: a host shows a bar."""


class LocalResidency:
    """Keeps what fits: before a stage, components used longest ago leave until there is room.

    Args:
        device: where the modules run.
        budget_bytes: most bytes of weights and activations together; None: what is free on the device.
        memory: how much the weights may take (`memory.room.Memory`): "auto", "resident", "stream", or GB.
        check: see `Residency.check`; None: nothing interrupts a run but Ctrl-C.
    """

    def __init__(self, device: torch.device, budget_bytes: int | None = None, *,
                 memory: str | float | Memory = "auto", check: Callable[[], None] | None = None) -> None:
        self.device, self._check = device, check
        self._memory = Memory.parse(memory)
        self._budget = budget_bytes
        if budget_bytes is None:
            self._budget = self._memory.budget
        self._resident: list[Component] = []
        self._used: WeakSet[Component] = WeakSet()  # so far: what has left the device may hold pages of its files
        self._said = ""

    def device_of(self, name: str) -> torch.device:
        """All on one device."""
        return self.device

    def check(self) -> None:
        """See `Residency`."""
        if self._check is not None:
            self._check()

    def counting(self, checks: int) -> AbstractContextManager[None]:
        """Nothing is shown here."""
        return nullcontext()

    @property
    def wants_least(self) -> bool:
        """Whether weights shall take as little of the device as they can."""
        return self._memory.mode == "stream"

    @property
    def capacity_bytes(self) -> float:
        """See `Residency`; infinite on the CPU and on MPS, whose memory the system manages."""
        return self._free_bytes() + self._loaded_bytes()

    def _loaded_bytes(self) -> int:
        loaded = 0
        for component in self._resident:
            loaded += component.loaded_bytes
        return loaded

    def _free_bytes(self) -> float:
        free = float("inf")  # the CPU and MPS share the system's memory, which the system manages
        if self.device.type == "cuda":
            on_device, _ = torch.cuda.mem_get_info(self.device)
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = on_device + cached - RESERVE_BYTES
            for component in self._resident:
                free -= component.recorded_bytes  # the allocator's, but for the recordings alone
        if self._budget is not None:
            free = min(free, self._budget - self._loaded_bytes())
        return free

    @property
    def wish(self) -> Memory:
        """See `Residency`."""
        return self._memory

    def choose(self, *components: Component, activations: Sequence[int]) -> int:
        """See `Residency`."""
        needs = [component.need() for component in components]
        return first_fitting(needs, self.capacity_bytes, activations, self._memory)

    def has_room(self, *components: Component, activation_bytes: int) -> bool:
        """See `Residency`."""
        loaded, needs = 0, []
        for component in components:
            loaded += component.loaded_bytes
            needs.append(component.need())
        return fits_whole(needs, loaded, self._free_bytes(), activation_bytes, self._memory)

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        """See `Residency.use`.

        Raises:
            OutOfMemoryError: not even these components alone fit, however little of them is resident.
        """
        try:
            self._use(components, activation_bytes, self.capacity_bytes, how)
        except torch.cuda.OutOfMemoryError:
            for component in components:
                component.release()
            torch.cuda.empty_cache()
            capacity = SECOND_TRY * self.capacity_bytes
            log.warning("The device had less memory than it said: one more try with %s.", gb(capacity))
            try:
                self._use(components, activation_bytes, capacity, how)
            except torch.cuda.OutOfMemoryError as error:
                for component in components:
                    component.release()
                raise refusal([c.need() for c in components], self.capacity_bytes, activation_bytes,
                              self._memory) from error

    def use_less(self, component: Component, activation_bytes: int) -> bool:
        """See `Residency`; what was asked to be resident stays."""
        return self._memory.mode != "resident" and shrink(component, activation_bytes)

    def _say(self, line: str) -> None:
        """Log a plan, unless it is the last one again: the same stage runs many times."""
        if line.partition(":")[2] != self._said:
            log.info("%s", line)
            self._said = line.partition(":")[2]

    def _use(self, components: Sequence[Component], activation_bytes: int, capacity: float, how: str) -> None:
        needs, now = [], []
        for component in components:
            needs.append(component.need())
            now.append(component.streamed or None)
        placements = place(needs, capacity, activation_bytes, self._memory, now)
        self._say(plan_line(needs, placements, self._memory.capacity(capacity), activation_bytes, how,
                            available_ram()))
        for component in components:
            if component in self._resident:
                self._resident.remove(component)
            self._resident.append(component)
            self._used.add(component)
        need = activation_bytes
        for component, placed in zip(components, placements, strict=True):
            need += placed.peak - component.loaded_bytes
        for old in list(self._resident):
            if old in components:
                continue
            if self._free_bytes() >= need and self._memory.mode != "stream":
                break  # to stream is to take as little as possible
            old.release()
            self._resident.remove(old)
        for component, placed in zip(components, placements, strict=True):
            if placed.peak + activation_bytes + component.recorded_bytes > self._memory.capacity(capacity):
                component.forget_recordings()
            with self.counting(len(component.refs)):
                component.place(policy_for(placed), self.device, self.check)

    def release(self) -> None:
        """Drop the weights of every component, and give back the pages of their files."""
        for component in self._used:
            component.release(pages=True)
        self._resident.clear()
        self._used.clear()
