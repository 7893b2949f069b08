"""An overlay's tensors into a module that was built on the meta device."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..overlay.architecture import differences
from ..overlay.source import AnyRef
from .lora import LoraUse, check_update
from .lora_apply import Change, apply, prepare
from .quant_modules import logical_shapes, replace_layers
from .reader import RangeReader, in_file_order

_log = logging.getLogger("ltx23")


@dataclass
class ReadCounter:
    """What one load has read: tensors and bytes (LoRAs included), seconds from start to all on the device."""

    tensors: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def count(self, ref: AnyRef) -> None:
        """Add one tensor."""
        self.tensors += 1
        self.bytes += ref.size_bytes


def load_module(module: nn.Module, refs: Mapping[str, AnyRef], device: torch.device | str,
                dtype: torch.dtype | None, *, loras: Sequence[LoraUse] = (),
                check: Callable[[], None] | None = None, name: str | None = None) -> ReadCounter:
    """Give a module its weights, straight from the files. All or nothing: an interrupt leaves the module as it was.

    Args:
        module: of `models.registry.build`; all its parameters and persistent buffers are replaced, so none of
            them stays on the meta device. Buffers that are in no file are left alone (Gemma restores its own).
        refs: parameter name -> byte range, exactly the module's.
        device: where the weights shall be.
        dtype: of floating-point weights; None: as stored. Matrices of a GGUF file stay as they are
            (`quant_modules`), and become this dtype when they are used.
        loras: fused while loading, in this order.
        check: called before each tensor; may raise to interrupt.
        name: of the component, for the log.

    Raises:
        WeightsError: names or shapes differ, or a file cannot be read.
        OverlayError: a file changed after the overlay was made.
    """
    name = name or type(module).__name__
    _check_names(name, module, refs)
    active = [lora for lora in loras if lora.strength]
    for lora in active:
        for parameter, update in lora.updates.items():
            if parameter in refs:
                check_update(parameter, refs[parameter].shape, update)
    counter, begin = ReadCounter(), time.perf_counter()
    kept = dict.fromkeys(replace_layers(module, refs, dtype or torch.bfloat16), ())
    state = _read(refs, torch.device(device), dtype, active, check, counter, kept)
    module.load_state_dict(state, strict=True, assign=True)
    for key, changes in kept.items():
        module.get_submodule(key.removesuffix(".weight")).set_changes(changes)
    counter.seconds = time.perf_counter() - begin
    _log.info("loaded %s: %d tensors, %s from %s in %.2f s to %s", name, counter.tensors, _size(counter.bytes),
              _files(refs), counter.seconds, device)
    return counter


def _check_names(name: str, module: nn.Module, refs: Mapping[str, AnyRef]) -> None:
    problems = differences(name, logical_shapes(module), refs)
    if problems:
        raise WeightsError("; ".join(problems), f"the tensors of {name}",
                           "Make the overlay again; if that does not help, download the weights again.")


def _read(refs: Mapping[str, AnyRef], device: torch.device, dtype: torch.dtype | None, loras: Sequence[LoraUse],
          check: Callable[[], None] | None, counter: ReadCounter,
          kept: dict[str, Sequence[Change]]) -> dict[str, Tensor]:
    """The module's tensors. Those of ``kept`` stay as blocks; what LoRAs change in them is put there."""
    state: dict[str, Tensor] = {}
    with closing(RangeReader(device)) as reader, torch.no_grad():

        def read(ref: AnyRef, wanted: torch.dtype | None) -> Tensor:
            counter.count(ref)
            return reader.read(ref, wanted)

        ordered = in_file_order(refs)
        reader.expect(ref.parts["weight"] if key in kept else ref for key, ref in ordered)
        for key, ref in ordered:
            if check is not None:
                check()
            quantised = key in kept
            state[key] = weight = read(ref.parts["weight"], None) if quantised else read(ref, dtype)
            numbers = dtype or torch.bfloat16 if quantised else weight.dtype
            changes = [prepare(lora.updates[key], lora.strength, numbers, read) for lora in loras
                       if key in lora.updates]
            if quantised:
                kept[key] = changes
            elif changes:
                apply(weight, changes)
    return state


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _files(refs: Mapping[str, AnyRef]) -> str:
    names = list(dict.fromkeys(ref.path.name for ref in refs.values()))
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
