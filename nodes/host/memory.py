"""Weights of `ltx23_core` under ComfyUI's memory management.

Every component stands in ComfyUI's list of loaded models, is counted at its true size, and is released when ComfyUI
wants the room (`Residency`).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

if TYPE_CHECKING:
    from ...ltx23_core.runtime.component import Component


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
    """Tells ComfyUI the truth about a component, and loads or releases it whole.

    A partly loaded plain torch module cannot run, so: `partially_load` loads all, `partially_unload` frees nothing
    (ComfyUI then detaches the whole), and `detach` drops the weights. They are read again from their files, hence
    there is no copy in RAM while they are off the device. Overrides take extra arguments because newer hosts pass some.
    """

    def model_size(self) -> int:
        """Bytes of the weights when loaded."""
        return self.model.component.size_bytes

    def loaded_size(self) -> int:
        """Bytes of the weights on the device now."""
        return self.model.component.loaded_bytes

    def partially_load(self, device_to: torch.device, *_: Any, **__: Any) -> int:  # noqa: ANN401
        """Load everything, whatever the budget; ComfyUI has made room before. Returns the bytes added."""
        before, component = self.loaded_size(), self.model.component
        try:
            component.load(device_to, mm.throw_exception_if_processing_interrupted)
        except BaseException:
            component.release()  # loaded before and changed now: ComfyUI has taken it out of its list already
            raise
        self._note(device_to)
        return self.loaded_size() - before

    def partially_unload(self, *_: Any, **__: Any) -> int:  # noqa: ANN401
        """Free nothing: ComfyUI then calls `detach`."""
        return 0

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """Release the weights; with `unpatch_all` False only the list entry goes (ComfyUI is about to renew it)."""
        if unpatch_all:
            self.model.component.release()
            self._note(self.offload_device)
        return super().detach(unpatch_all)

    def _note(self, device: torch.device) -> None:
        self.model.device = device
        self.model.model_loaded_weight_memory = self.loaded_size()


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

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._patchers: dict[int, _ComponentPatcher] = {}

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
        return mm.get_free_memory(self.device) + loaded - mm.extra_reserved_memory()

    def use(self, *components: Component, activation_bytes: int = 0) -> None:
        """Bring components onto their devices, after ComfyUI has made room for them and for the activations.

        Called before every stage: in between, other nodes may have evicted them.
        """
        mm.load_models_gpu([self._patcher(component) for component in components], memory_required=activation_bytes)

    def check(self) -> None:
        """Raise ComfyUI's own exception if the user pressed cancel."""
        mm.throw_exception_if_processing_interrupted()

    def _patcher(self, component: Component) -> _ComponentPatcher:
        if id(component) not in self._patchers:  # the patcher keeps the component alive, so the id stays its own
            devices = self.device, _offload_device(component)
            self._patchers[id(component)] = _ComponentPatcher(LTX23Component(component), *devices)
        return self._patchers[id(component)]


def intermediate(tensor: torch.Tensor) -> torch.Tensor:
    """A node output: float32 on the device where ComfyUI keeps what lies between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)
