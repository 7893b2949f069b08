"""A component: a module whose weights lie in files until a device needs them."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ..lora.plan import LoraPlan, LoraUse
    from ..overlay.bytes.source import AnyRef

log = logging.getLogger("ltx23")
META = torch.device("meta")


class Component:
    """One component of the model and where its weights are.

    On the meta device it holds no memory at all: releasing drops the weights, loading reads their byte ranges
    again (the operating system's page cache makes that cheap while there is room).

    Args:
        name: component name of the overlay, for messages.
        build: makes the module on the meta device; called once, at first use.
        refs: tensor name -> where its bytes are.
        dtype: dtype of the loaded weights.
        loras: as of `set_loras`.
        verify: called before each load; raises if a source file changed.
        after_load: called with (module, device) after the weights are there, for buffers that no file holds.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module], refs: Mapping[str, AnyRef], dtype: torch.dtype, *,
                 loras: Sequence[LoraUse] = (), verify: Callable[[], None] | None = None,
                 after_load: Callable[[nn.Module, torch.device], None] | None = None) -> None:
        self.name, self.refs, self.dtype = name, refs, dtype
        self._build, self._module = build, None
        self._verify, self._after_load = verify, after_load
        self._device = META
        self._loras: tuple[LoraUse, ...] = ()
        self._wanted: LoraPlan = {}
        self._applied: LoraPlan = {}
        self.loads = 0  # of all weights
        self.bytes_read = 0  # so far, LoRAs and changes of LoRAs included
        if loras:
            self.set_loras(loras)

    @property
    def module(self) -> nn.Module:
        """The module; its parameters are on `device`."""
        if self._module is None:
            self._module = self._build()
        return self._module

    @property
    def device(self) -> torch.device:
        """Where the weights are; meta while they are only in files."""
        return self._device

    @cached_property
    def _quantised(self) -> frozenset[str]:
        from ..overlay.packed.sizes import stays_packed
        return frozenset(name for name, ref in self.refs.items() if stays_packed(name, ref))

    @cached_property
    def _base_bytes(self) -> int:
        from ..overlay.packed.sizes import device_bytes
        return device_bytes(self.refs, self.dtype.itemsize)

    def _plan(self, loras: Sequence[LoraUse]) -> LoraPlan:
        from ..lora.layers import linear_weights
        from ..lora.plan import plan_loras
        if not loras:
            return {}
        return plan_loras(loras, self.refs, linear_weights(self.module), self._quantised)

    def _bytes(self, plan: LoraPlan) -> int:
        from ..lora.plan import factor_bytes
        return self._base_bytes + factor_bytes(plan, self.dtype.itemsize)

    def set_loras(self, loras: Sequence[LoraUse]) -> None:
        """The LoRAs that the weights shall have after the next `load`, in order. Reads nothing.

        Loaded weights keep those that they have until then; `load` then changes only what differs
        (`weights.lora_switch`), and without LoRAs the base is back bit for bit.

        Raises:
            WeightsError: an update does not fit its parameter.
        """
        self._wanted = self._plan(loras)
        self._loras = tuple(loras)

    def bytes_with(self, loras: Sequence[LoraUse]) -> int:
        """What `size_bytes` would be with these LoRAs."""
        return self._bytes(self._plan(loras))

    @property
    def size_bytes(self) -> int:
        """Bytes on a device after `load`: weights, those of a GGUF file quantised, and LoRA factors beside layers."""
        return self._bytes(self._wanted)

    @property
    def loaded_bytes(self) -> int:
        """Bytes that are on the device now."""
        return 0 if self._device == META else self._bytes(self._applied)

    def load(self, device: torch.device, check: Callable[[], None] | None = None) -> int:
        """Read the weights to a device if they are not there; returns the bytes that are there.

        Weights that are there and have other LoRAs than `set_loras` said are changed. An interrupt leaves each of
        them with the old or the new LoRAs, and the next call goes on.

        Raises:
            OverlayError: a source file changed. WeightsError: a tensor is missing or unreadable.
        """
        from ..runtime.load import load_module
        from .switch import switch_loras
        if self._device == device:
            if self._applied != self._wanted:
                self.bytes_read += switch_loras(self.module, self.refs, self._applied, self._wanted, device,
                                                self.dtype, check=check, name=self.name).bytes
            return self.size_bytes
        self.release()
        if self._verify is not None:
            self._verify()
        try:
            self.bytes_read += load_module(self.module, self.refs, device, self.dtype, loras=self._loras, check=check,
                                           name=self.name).bytes
            self._applied = dict(self._wanted)
            if self._after_load is not None:
                self._after_load(self.module, device)
        except BaseException:
            self._drop()  # an interrupted load leaves nothing behind
            raise
        self._device = device
        self.loads += 1
        return self.size_bytes

    def release(self) -> None:
        """Drop the weights."""
        if self._device == META:
            return
        log.info("released %s: %.1f MB from %s", self.name, self.loaded_bytes / 1e6, self._device)
        self._drop()

    def _drop(self) -> None:
        from ..lora.layers import set_all_changes
        set_all_changes(self.module, {})
        self._applied = {}
        self.module.to(META)
        self._device = META
