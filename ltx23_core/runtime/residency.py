"""Which components are on the device, outside ComfyUI (inside it, ComfyUI's own memory management decides)."""
from __future__ import annotations

from typing import Protocol

import torch

from ..errors import OutOfMemoryError
from .component import Component

RESERVE_BYTES = 1 << 30  # for the allocator's fragments and the library's workspaces


class Residency(Protocol):
    """What the pipeline asks before each stage."""

    device: torch.device

    @property
    def capacity_bytes(self) -> float:
        """Bytes that weights and activations could take together if all other components left the device."""

    def use(self, *components: Component, activation_bytes: int = 0) -> None:
        """Make sure these components are on the device and this many bytes are free beside them."""

    def check(self) -> None:
        """Raise to interrupt the run; called once a block, layer or tile."""


class LocalResidency:
    """Keeps what fits: before a stage, components used longest ago leave until there is room.

    Args:
        device: where the modules run.
        budget_bytes: most bytes of weights and activations together; None: what is free on the device.
    """

    def __init__(self, device: torch.device, budget_bytes: int | None = None) -> None:
        self.device = device
        self._budget = budget_bytes
        self._resident: list[Component] = []

    def check(self) -> None:
        """Nothing interrupts a local run but Ctrl-C."""

    @property
    def capacity_bytes(self) -> float:
        """See `Residency`; infinite on the CPU and on MPS, whose memory the system manages."""
        return self._free_bytes() + sum(c.loaded_bytes for c in self._resident)

    def _free_bytes(self) -> float:
        if self._budget is not None:
            return self._budget - sum(c.loaded_bytes for c in self._resident)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return free + cached - RESERVE_BYTES
        return float("inf")  # the CPU and MPS share the system's memory, which the system manages

    def use(self, *components: Component, activation_bytes: int = 0) -> None:
        """See `Residency.use`.

        Raises:
            OutOfMemoryError: not even these components alone fit.
        """
        for component in components:
            if component in self._resident:
                self._resident.remove(component)
            self._resident.append(component)
        need = activation_bytes + sum(c.size_bytes - c.loaded_bytes for c in components)
        for old in [c for c in self._resident if c not in components]:
            if self._free_bytes() >= need:
                break
            old.release()
            self._resident.remove(old)
        if self._free_bytes() < need:
            names = ", ".join(c.name for c in components)
            raise OutOfMemoryError(
                f"{names} with {activation_bytes / 1e9:.1f} GB of activations need {need / 1e9:.1f} GB more on "
                f"{self.device}, where {max(self._free_bytes(), 0) / 1e9:.1f} GB are free", "enough free memory",
                "Close other programs that use the device, or choose a smaller size or fewer frames.")
        for component in components:
            component.load(self.device, self.check)

    def release(self) -> None:
        """Drop the weights of every component."""
        for component in self._resident:
            component.release()
        self._resident.clear()
