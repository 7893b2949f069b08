"""Weights of `ltx23_core` under ComfyUI's memory management.

Every component stands in ComfyUI's list of loaded models, is counted at its true size, and is released when ComfyUI
wants the room (`Residency`).
"""
from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

from ...ltx23_core.errors import LTX23Error
from ...ltx23_core.memory.memory_plan import plan_line
from ...ltx23_core.memory.room import Memory, Need, Placement, fitting, freeing, place, placed_so
from . import progress

if TYPE_CHECKING:
    from ...ltx23_core.runtime.component import Component

log = logging.getLogger("ltx23")


def device_memory() -> int:
    """Bytes of the device that ComfyUI computes on; 0 where that is no limit of its own (CPU)."""
    device = mm.get_torch_device()
    return 0 if mm.is_device_cpu(device) else mm.get_total_memory(device)


class LTX23Component(torch.nn.Module):
    """What a `ModelPatcher` wraps (ComfyUI logs the name): a component behind a module without parameters of its own.

    The component's module is not wrapped itself: its parameters come and go with loading, and some modules (those
    of transformers) have a read-only `device`, which ModelPatcher wants to set.
    """

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.component = component


class _ComponentPatcher(ModelPatcher):
    """Tells ComfyUI the truth about a component, and keeps within the budgets that it gives.

    A component with blocks may be partly on the device: the others are streamed while it runs. One without blocks
    cannot run partly, so it is loaded whole whatever the budget, and gives nothing back but all of it. What leaves the
    device is read again from its files, hence there is no copy in RAM. Overrides take extra arguments because newer
    hosts pass some.
    """

    wish = Memory()  # of the pipeline

    def model_size(self) -> int:
        """Bytes of the weights when all are resident."""
        return self.model.component.size_bytes

    def loaded_size(self) -> int:
        """Bytes of the weights on the device now, places of streamed blocks included."""
        return self.model.component.loaded_bytes

    def partially_load(self, device_to: torch.device, extra_memory: float = 0, *_: Any,  # noqa: ANN401
                       **__: Any) -> int:  # noqa: ANN401
        """Take at most ``extra_memory`` more bytes, or less than now where that is negative; the bytes added."""
        before, component = self.loaded_size(), self.model.component
        need = component.need()
        room = before + extra_memory + _work(need)  # which stands in what `use` asked for
        if self.wish.budget is not None:
            room = min(room, self.wish.budget)
        placed = fitting(need, room, self.wish, component.streamed or None) or _least(need, self.wish)
        from ...ltx23_core.runtime.policy import policy_for  # imports torch's share of the library

        try:
            component.place(policy_for(placed), device_to, mm.throw_exception_if_processing_interrupted)
        except BaseException:
            component.release(pages=True)  # ComfyUI has taken it out of its list already
            raise
        self.note(device_to)
        return self.loaded_size() - before

    def partially_unload(self, device_to: torch.device, memory_to_free: float = 0, *_: Any,  # noqa: ANN401
                         **__: Any) -> int:  # noqa: ANN401
        """Give blocks back, at least that many bytes; 0 where that is not possible: ComfyUI then calls `detach`."""
        component = self.model.component
        placed = freeing(component.need(), component.streamed, memory_to_free)
        if placed is None or self.loaded_size() == 0:
            return 0
        from ...ltx23_core.runtime.policy import policy_for

        before = self.loaded_size()
        try:
            component.place(policy_for(placed), component.device)
        except LTX23Error:  # a file changed: whoever uses it next is told; here another model wants the room
            return 0
        self.note(component.device)
        return before - self.loaded_size()

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """Release the weights; with `unpatch_all` False only the list entry goes (ComfyUI is about to renew it)."""
        if unpatch_all:
            self.model.component.release(pages=True)
            self.note(self.offload_device)
        return super().detach(unpatch_all)

    def note(self, device: torch.device) -> None:
        """Tell ComfyUI what is on the device now."""
        self.model.device = device
        self.model.model_loaded_weight_memory = self.loaded_size()


def _work(need: Need) -> int:
    """Bytes beside the weights while a block runs, streamed or not."""
    return max(need.work, need.streamed_work)


def _least(need: Need, wish: Memory) -> Placement:
    """What runs where the host gives less than that (--novram: a tenth of a byte): as few bytes as the wish allows."""
    mode = "resident" if wish.mode == "resident" else "stream"
    return fitting(need, float("inf"), Memory(mode))


def _offload_device(component: Component) -> torch.device:
    """Where ComfyUI thinks that a component rests: its own answer for each kind."""
    if component.name.startswith("text_encoder"):
        return mm.text_encoder_offload_device()
    if component.name in ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder"):
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
        self._patchers: dict[int, _ComponentPatcher] = {}
        self._said = ""

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI computes on."""
        return mm.get_torch_device()

    @property
    def capacity_bytes(self) -> float:
        """Bytes that weights and activations could take together if everything else left the device."""
        if mm.is_device_cpu(self.device):
            return float("inf")
        loaded = sum(each.model_loaded_memory() for each in mm.current_loaded_models
                     if each.model is not None and each.device == self.device)
        return mm.get_free_memory(self.device) + loaded - mm.extra_reserved_memory() - self._recorded_bytes

    @property
    def _recorded_bytes(self) -> int:
        """Bytes of recorded forwards: ComfyUI takes them for free, since no tensor is alive in them."""
        recorded = 0
        for patcher in self._patchers.values():
            recorded += patcher.model.component.recorded_bytes
        return recorded

    def use(self, *components: Component, activation_bytes: int = 0) -> None:
        """Bring components onto their devices, after ComfyUI has made room for them and for the activations.

        Called before every stage: in between, other nodes may have evicted them.

        Raises:
            OutOfMemoryError: they do not fit, however little of them is resident.
        """
        needs = [component.need() for component in components]
        capacity = self.capacity_bytes
        place(needs, capacity, activation_bytes, self._wish)  # refuses before a byte is read
        required = activation_bytes + self._recorded_bytes
        for need in needs:
            required += _work(need)
        patchers = [self._patcher(component) for component in components]
        mm.load_models_gpu(patchers, memory_required=required)
        placed = [placed_so(need, component.streamed) for need, component in zip(needs, components, strict=True)]
        self._say(plan_line(needs, placed, self._wish.capacity(capacity), activation_bytes))

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
        """Raise ComfyUI's own exception if the user pressed cancel."""
        mm.throw_exception_if_processing_interrupted()

    def _patcher(self, component: Component) -> _ComponentPatcher:
        # A patcher keeps its component alive, so the id stays its own.
        if id(component) not in self._patchers:
            devices = self.device, _offload_device(component)
            patcher = self._patchers[id(component)] = _ComponentPatcher(LTX23Component(component), *devices)
            patcher.wish = self._wish
        return self._patchers[id(component)]


def intermediate(tensor: torch.Tensor) -> torch.Tensor:
    """A node output: float32 on the device where ComfyUI keeps what lies between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)
