"""A component of `ltx23_core` as ComfyUI's memory management sees it: a `ModelPatcher` that tells true sizes."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

from ...ltx23_core.errors import LTX23Error
from ...ltx23_core.memory.room import Memory, Need, Placement, fitting, freeing
from . import progress

if TYPE_CHECKING:
    from ...ltx23_core.runtime.component import Component

SHARE_OF_RAM = 0.5  # of the RAM that is free: what a component on the CPU takes where the others are on a device


class LTX23Component(torch.nn.Module):
    """What a `ModelPatcher` wraps (ComfyUI logs the name): a component behind a module without parameters of its own.

    The component's module is not wrapped itself: its parameters come and go with loading, and some modules (those
    of transformers) have a read-only `device`, which ModelPatcher wants to set.
    """

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.component = component


def named(component: Component) -> LTX23Component:
    """The same under the name of its part: ComfyUI's log says "loaded text_encoder"."""
    return type(component.name, (LTX23Component,), {})(component)


class ComponentPatcher(ModelPatcher):
    """Tells ComfyUI the truth about a component, and keeps within the budgets that it gives.

    A component with blocks may be partly on the device: the others are streamed while it runs. One without blocks
    cannot run partly, so it is loaded whole whatever the budget, and gives nothing back but all of it. What leaves the
    device is read again from its files, hence there is no copy in RAM. Overrides take extra arguments because newer
    hosts pass some.
    """

    wish = Memory()  # of the pipeline
    has_room = False  # the device has been asked for it
    beside = 0  # bytes that the last use needs on the device besides the weights

    def model_size(self) -> int:
        """Bytes of the weights when all are resident; those that are there where room for the others has been made.

        ComfyUI asks for two reasons: to make room on the device, and, since it began to page its own models, to drop
        their copies in pinned RAM for the copy that a model of this size would keep there. Ours keeps none.
        """
        if self.has_room:
            return self.loaded_size()
        return self.model.component.size_bytes

    def loaded_size(self) -> int:
        """Bytes of the weights on the device now, places of streamed blocks included."""
        return self.model.component.loaded_bytes

    def partially_load(self, device_to: torch.device, extra_memory: float = 0, *_: Any,  # noqa: ANN401
                       **__: Any) -> int:  # noqa: ANN401
        """Take at most ``extra_memory`` more bytes, or less than now where that is negative; the bytes added."""
        before, component = self.loaded_size(), self.model.component
        need = component.need()
        room = before + extra_memory + work_of(need)  # which stands in what `use` asked for
        room = min(room, before + self._free(device_to) + work_of(need))
        if self.wish.budget is not None:
            room = min(room, self.wish.budget)
        placed = fitting(need, room, self.wish, component.streamed or None) or _least(need, self.wish)
        from ...ltx23_core.runtime.policy import policy_for  # imports torch's share of the library

        try:
            with progress.phase(len(component.refs)):
                component.place(policy_for(placed), device_to, progress.tick)
        except BaseException:
            component.release(pages=True)  # ComfyUI has taken it out of its list already
            raise
        self.note(device_to)
        return self.loaded_size() - before

    def _free(self, device: torch.device) -> float:
        """Bytes that weights may take at most: --highvram, and the shared memory of a Mac, set no limit themselves."""
        if device != mm.get_torch_device():
            return SHARE_OF_RAM * mm.get_free_memory(device)
        if mm.is_device_cpu(device):
            return float("inf")
        return mm.get_free_memory(device) - self.beside

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


def work_of(need: Need) -> int:
    """Bytes beside the weights while a block runs, streamed or not."""
    return max(need.work, need.streamed_work)


def _least(need: Need, wish: Memory) -> Placement:
    """What runs where the host gives less than that (--novram: a tenth of a byte): as few bytes as the wish allows."""
    mode = "resident" if wish.mode == "resident" else "stream"
    return fitting(need, float("inf"), Memory(mode))
