"""Weights of `ltx23_core` under ComfyUI's memory management.

Every component stands in ComfyUI's list of loaded models, is counted at its true size, and is released when ComfyUI
wants the room (`Residency`).
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import comfy.model_management as mm
import torch

from ...ltx23_core.memory.memory_plan import plan_line
from ...ltx23_core.memory.ram import available_ram
from ...ltx23_core.memory.room import CONTEXT, LOST, Memory, Need, first_fitting, fits_whole, place, placed_so
from . import progress
from .patcher import ComponentPatcher, named, work_of

if TYPE_CHECKING:
    from ...ltx23_core.runtime.component import Component

log = logging.getLogger("ltx23")

VAES = ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")


def device_memory() -> int:
    """Bytes that weights and activations can have of the device that ComfyUI computes on, if nothing else uses it.

    The same at every start, so that the choice of files is. 0 where that is no limit of its own (CPU).
    """
    device = mm.get_torch_device()
    if mm.is_device_cpu(device):
        return 0
    return int(max(mm.get_total_memory(device) - mm.extra_reserved_memory() - CONTEXT, 1))


def card() -> dict[str, object]:
    """The device that ComfyUI computes on: what it is called, and `device_memory`."""
    device = mm.get_torch_device()
    name = "CPU"
    if not mm.is_device_cpu(device):
        name = mm.get_torch_device_name(device).partition(" : ")[0].removeprefix(f"{device} ")
    return {"name": name, "bytes": device_memory()}


def _device(name: str) -> torch.device:
    """Where ComfyUI wants a component to run: its own answer for each kind (--cpu-vae, --lowvram, ...).

    But where device and CPU share their memory, ComfyUI's "CPU" for the text encoder would save nothing.
    """
    if name.startswith("text_encoder") and mm.vram_state != mm.VRAMState.SHARED:
        return mm.text_encoder_device()
    if name in VAES:
        return mm.vae_device()
    return mm.get_torch_device()


def _offload_device(name: str) -> torch.device:
    """Where ComfyUI thinks that a component rests."""
    if name.startswith("text_encoder"):
        return mm.text_encoder_offload_device()
    if name in VAES:
        return mm.vae_offload_device()
    return mm.unet_offload_device()


class Residency:
    """Where the weights of one pipeline are: in ComfyUI's list of loaded models (contract: docs/architecture.md).

    Holds the patchers; ComfyUI's list has weak references, so both end with the pipeline.
    """

    def __init__(self, memory: str | float | Memory = "auto") -> None:
        """Start with nothing loaded.

        Args:
            memory: how much of the device the weights may take: "auto", "resident", "stream", or GB.
        """
        self._wish = Memory.parse(memory)
        self._patchers: dict[int, ComponentPatcher] = {}
        self._said = ""

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI computes on."""
        return mm.get_torch_device()

    def device_of(self, name: str) -> torch.device:
        """See `runtime.residency.Residency`."""
        return _device(name)

    @property
    def capacity_bytes(self) -> float:
        """Bytes that weights and activations could take together if everything else left the device."""
        return self._capacity(self.device)

    def _capacity(self, device: torch.device) -> float:
        if mm.is_device_cpu(self.device) or device != self.device:
            return float("inf")  # the system manages it; what our weights take of it is bounded where they are placed
        loaded = 0
        for each in mm.current_loaded_models:
            if each.model is not None and each.device == device:
                loaded += each.model_loaded_memory()
        return mm.get_free_memory(device) + loaded - mm.extra_reserved_memory() - self._recorded_bytes

    @property
    def _recorded_bytes(self) -> int:
        """Bytes of recorded forwards: ComfyUI takes them for free, since no tensor is alive in them."""
        recorded = 0
        for patcher in self._patchers.values():
            recorded += patcher.model.component.recorded_bytes
        return recorded

    @property
    def wish(self) -> Memory:
        """See `runtime.residency.Residency`."""
        return self._wish

    def choose(self, *components: Component, activations: Sequence[int]) -> int:
        """See `runtime.residency.Residency`."""
        needs = [component.need() for component in components]
        patcher = self._patcher(components[0])
        return first_fitting(needs, self._capacity(patcher.load_device), activations, patcher.wish)

    def has_room(self, *components: Component, activation_bytes: int) -> bool:
        """See `runtime.residency.Residency`: by what ComfyUI would make free before it loads them."""
        needs = [component.need() for component in components]
        patchers = [self._patcher(component) for component in components]
        device, wish = patchers[0].load_device, patchers[0].wish
        if not fits_whole(needs, 0, float("inf"), activation_bytes, wish):
            return False
        required = self._required(needs, int(activation_bytes * (1 + LOST)))
        return mm.get_free_memory(device) > _missing(patchers) + _kept_free(required)

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        """Bring components onto their devices, after ComfyUI has made room for them and for the activations.

        Called before every stage: in between, other nodes may have evicted them.

        Raises:
            OutOfMemoryError: they do not fit, however little of them is resident.
        """
        needs = [component.need() for component in components]
        patchers = [self._patcher(component) for component in components]
        device, wish = patchers[0].load_device, patchers[0].wish
        capacity = self._capacity(device)
        place(needs, capacity, activation_bytes, wish)  # refuses before a byte is read
        _load(patchers, device, self._required(needs, activation_bytes))
        placed = [placed_so(need, component.streamed) for need, component in zip(needs, components, strict=True)]
        self._say(plan_line(needs, placed, wish.capacity(capacity), activation_bytes, how,
                            available_ram()))

    def _required(self, needs: Sequence[Need], activation_bytes: int) -> int:
        """Bytes beside the weights that ComfyUI is told of."""
        required = activation_bytes + self._recorded_bytes
        for need in needs:
            required += work_of(need)
        return required

    def _say(self, line: str) -> None:
        """Show in the node where the weights are; log it, unless it is the last one again: a stage runs many times."""
        progress.add(line)
        if line.partition(":")[2] != self._said:
            log.info("%s", line)
            self._said = line.partition(":")[2]

    def use_less(self, component: Component, activation_bytes: int) -> bool:
        """See `runtime.residency.Residency`."""
        from ...ltx23_core.runtime.second_try import shrink

        if self._wish.mode == "resident" or not shrink(component, activation_bytes):
            return False
        self._patcher(component).note(self.device)
        return True

    def check(self) -> None:
        """Raise ComfyUI's own exception if the user pressed cancel; else the node's bar goes on."""
        progress.tick()

    def counting(self, checks: int) -> AbstractContextManager[None]:
        """See `runtime.residency.Residency`: a bar of the node that runs."""
        return progress.phase(checks)

    def _patcher(self, component: Component) -> ComponentPatcher:
        # A patcher keeps its component alive, so the id stays its own.
        if id(component) not in self._patchers:
            devices = _device(component.name), _offload_device(component.name)
            patcher = self._patchers[id(component)] = ComponentPatcher(named(component), *devices)
            if devices[0] == self.device:
                patcher.wish = self._wish  # which is about this device
        return self._patchers[id(component)]


def make_room() -> None:
    """Let go of what ComfyUI has on its device: workers compute there, and it does not know what they need."""
    if mm.current_loaded_models:
        mm.unload_all_models()
        mm.soft_empty_cache()


def _missing(patchers: Sequence[ComponentPatcher]) -> float:
    """Bytes that ComfyUI makes free for the weights of these that are not on the device."""
    missing = 0
    for patcher in patchers:
        missing += patcher.model_size() - patcher.loaded_size()
    return missing * 1.1


def _kept_free(beside: int) -> float:
    """Bytes that ComfyUI makes free beside the weights, where so many are asked for."""
    return max(mm.minimum_inference_memory(), beside + mm.extra_reserved_memory())


def _load(patchers: Sequence[ComponentPatcher], device: torch.device, beside: int) -> None:
    """Have ComfyUI make room on the device, as much as it would by itself, and load."""
    if device != torch.device("cpu"):
        kept = [each for each in mm.current_loaded_models if each.model in patchers]
        mm.free_memory(_missing(patchers) + _kept_free(beside), device, kept)
    for patcher in patchers:
        patcher.has_room, patcher.beside = True, beside
    try:
        mm.load_models_gpu(patchers, memory_required=beside)
    finally:
        for patcher in patchers:
            patcher.has_room = False


def intermediate(tensor: torch.Tensor) -> torch.Tensor:
    """A node output: float32 on the device where ComfyUI keeps what lies between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)
