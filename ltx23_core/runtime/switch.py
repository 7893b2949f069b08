"""Another set of LoRAs on loaded weights: only what differs is read, and only what was fused before is read again."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import torch
from torch import nn

from ..lora.apply import Change, Read, apply, prepare
from ..lora.layers import ChangedLayer, put_tensor, set_layer_changes, tensor_of
from ..lora.plan import LoraPlan, ParameterLoras, Part
from ..overlay.bytes.source import AnyRef
from ..quant.layers import QuantWeight
from ..weights.count import ReadCounter, byte_text
from ..weights.reader import RangeReader, in_file_order

_log = logging.getLogger("ltx23")
_NOTHING = ParameterLoras()


def switch_loras(module: nn.Module, refs: Mapping[str, AnyRef], applied: LoraPlan, wanted: LoraPlan,
                 device: torch.device, dtype: torch.dtype | None, *, check: Callable[[], None] | None = None,
                 name: str = "module") -> ReadCounter:
    """Bring a loaded module from one set of LoRAs to another.

    A weight into which nothing was fused is changed where it is; one into which something was fused is read again
    from its file, so that it is exact, and then fused. Factors at use: strengths are numbers, only new factors are
    read. The result is bit for bit that of loading with the wanted set.

    Args:
        module: loaded by `load_module`.
        refs: its tensors.
        applied: what is on the weights now; follows parameter by parameter, so after an interrupt it still tells
            the truth, and the next switch goes on.
        wanted: what shall be.
        device, dtype: those of loading.
        check: called before each parameter; may raise to interrupt.
        name: of the component, for the log.

    Returns:
        what was read; tensors are those of base weights and LoRAs together.
    """
    changed = {}
    for key in applied.keys() | wanted.keys():
        if applied.get(key, _NOTHING) != wanted.get(key, _NOTHING):
            changed[key] = refs[key]
    counter, begin = ReadCounter(), time.perf_counter()
    with closing(RangeReader(device)) as reader, torch.no_grad():
        read = counter.reading(reader)
        for key, ref in in_file_order(changed):
            if check is not None:
                check()
            old, new = applied.get(key, _NOTHING), wanted.get(key, _NOTHING)
            if old.fused != new.fused:
                if old.fused:
                    put_tensor(module, key, read(ref, dtype))
                    applied[key] = old = old._replace(fused=())
                _fuse(module, key, new.fused, read)
                applied[key] = old = old._replace(fused=new.fused)
            if old.at_use != new.at_use:
                _set_at_use(module, key, old.at_use, new.at_use, read)
            applied[key] = new
            if new == _NOTHING:
                del applied[key]
    counter.seconds = time.perf_counter() - begin
    _log.info("LoRAs of %s: changed %d weights, read %s in %.2f s", name, len(changed), byte_text(counter.bytes),
              counter.seconds)
    return counter


def _fuse(module: nn.Module, key: str, parts: Sequence[Part], read: Read) -> None:
    weight = tensor_of(module, key)
    changes = [prepare(part.update, part.strength, weight.dtype, read) for part in parts]
    if changes:
        apply(weight, changes)


def _set_at_use(module: nn.Module, key: str, old: Sequence[Part], new: Sequence[Part], read: Read) -> None:
    layer = module.get_submodule(key.removesuffix(".weight"))
    if len(old) == len(new) and all(map(Part.same_tensors, old, new)):
        layer.set_strengths([part.strength for part in new])
        return
    numbers = layer.dtype if isinstance(layer, QuantWeight) else layer.weight.dtype
    there = []
    if isinstance(layer, ChangedLayer):
        there = list(zip(old, layer.changes(), strict=True))
    set_layer_changes(module, key, [_change(part, there, numbers, read) for part in new])


def _change(part: Part, there: Sequence[tuple[Part, Change]], numbers: torch.dtype, read: Read) -> Change:
    """From what is on the device already, else read."""
    for other, change in there:
        if part.same_tensors(other):
            return change.with_strength(part.strength)
    return prepare(part.update, part.strength, numbers, read)
