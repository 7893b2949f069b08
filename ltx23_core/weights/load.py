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
from ..overlay.source import TensorRef
from .lora import LoraUse, check_pair, fuse
from .reader import RangeReader, in_file_order

_log = logging.getLogger("ltx23")


@dataclass
class ReadCounter:
    """What one load has read: tensors and bytes (LoRAs included), seconds from start to all on the device."""

    tensors: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def count(self, ref: TensorRef) -> None:
        """Add one tensor."""
        self.tensors += 1
        self.bytes += ref.size_bytes


def load_module(module: nn.Module, refs: Mapping[str, TensorRef], device: torch.device | str,
                dtype: torch.dtype | None, *, loras: Sequence[LoraUse] = (),
                check: Callable[[], None] | None = None, name: str | None = None) -> ReadCounter:
    """Give a module its weights, straight from the files. All or nothing: an interrupt leaves the module as it was.

    Args:
        module: of `models.registry.build`; all its parameters and persistent buffers are replaced, so none of
            them stays on the meta device. Buffers that are in no file are left alone (Gemma restores its own).
        refs: parameter name -> byte range, exactly the module's.
        device: where the weights shall be.
        dtype: of floating-point weights; None: as stored.
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
        for weight, pair in lora.pairs.items():
            if weight in refs:
                check_pair(weight, refs[weight], pair)
    counter, begin = ReadCounter(), time.perf_counter()
    state = _read(refs, torch.device(device), dtype, active, check, counter)
    module.load_state_dict(state, strict=True, assign=True)
    counter.seconds = time.perf_counter() - begin
    _log.info("loaded %s: %d tensors, %s from %s in %.2f s to %s", name, counter.tensors, _size(counter.bytes),
              _files(refs), counter.seconds, device)
    return counter


def _check_names(name: str, module: nn.Module, refs: Mapping[str, TensorRef]) -> None:
    want = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = differences(name, want, refs)
    if problems:
        raise WeightsError("; ".join(problems), f"the tensors of {name}",
                           "Make the overlay again; if that does not help, download the weights again.")


def _read(refs: Mapping[str, TensorRef], device: torch.device, dtype: torch.dtype | None, loras: Sequence[LoraUse],
          check: Callable[[], None] | None, counter: ReadCounter) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    with closing(RangeReader(device)) as reader, torch.no_grad():

        def read(ref: TensorRef, wanted: torch.dtype | None) -> Tensor:
            counter.count(ref)
            return reader.read(ref, wanted)

        for key, ref in in_file_order(refs):
            if check is not None:
                check()
            weight = read(ref, dtype)
            pairs = [(lora.pairs[key], lora.strength) for lora in loras if key in lora.pairs]
            state[key] = fuse(weight, [(read(a, weight.dtype), read(b, weight.dtype), strength)
                                       for (a, b), strength in pairs])
    return state


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _files(refs: Mapping[str, TensorRef]) -> str:
    names = list(dict.fromkeys(ref.path.name for ref in refs.values()))
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
