"""A component: a module whose weights lie in files until a device needs them."""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ..overlay.source import AnyRef
    from ..weights import LoraUse

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
        loras: fused into the weights while they are read.
        verify: called before each load; raises if a source file changed.
        after_load: called with (module, device) after the weights are there, for buffers that no file holds.
    """

    def __init__(self, name: str, build: Callable[[], nn.Module], refs: Mapping[str, AnyRef], dtype: torch.dtype, *,
                 loras: Sequence[LoraUse] = (), verify: Callable[[], None] | None = None,
                 after_load: Callable[[nn.Module, torch.device], None] | None = None) -> None:
        self.name, self.refs, self.dtype = name, refs, dtype
        self._build, self._module = build, None
        self._loras, self._verify, self._after_load = tuple(loras), verify, after_load
        self._device = META
        self.loads = 0

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

    @property
    def size_bytes(self) -> int:
        """Bytes that the loaded weights take on a device; those of a GGUF file stay quantised there."""
        from ..weights.quant_modules import device_bytes
        return device_bytes(self.refs, self.dtype, self._loras)

    @property
    def loaded_bytes(self) -> int:
        """`size_bytes` while the weights are on a device, else 0."""
        return 0 if self._device == META else self.size_bytes

    def load(self, device: torch.device, check: Callable[[], None] | None = None) -> int:
        """Read the weights to a device if they are not there; returns the bytes that are there.

        Raises:
            OverlayError: a source file changed. WeightsError: a tensor is missing or unreadable.
        """
        from ..weights import load_module
        if self._device == device:
            return self.size_bytes
        self.release()
        if self._verify is not None:
            self._verify()
        try:
            load_module(self.module, self.refs, device, self.dtype, loras=self._loras, check=check, name=self.name)
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
        log.info("released %s: %.1f MB from %s", self.name, self.size_bytes / 1e6, self._device)
        self._drop()

    def _drop(self) -> None:
        self.module.to(META)
        self._device = META
