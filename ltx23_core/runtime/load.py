"""An overlay's tensors into a module that was built on the meta device."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..lora.apply import Change, apply, prepare
from ..lora.layers import linear_weights, set_all_changes
from ..lora.plan import LoraPlan, LoraUse, Part, plan_loras
from ..ops.matmul import Together
from ..overlay.bytes.source import AnyRef
from ..overlay.names.architecture import differences
from ..quant.layers import logical_shapes, replace_layers
from ..weights.count import ReadCounter, byte_text
from ..weights.reader import RangeReader, in_file_order

_log = logging.getLogger("ltx23")


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
        loras: fused while loading, in this order, or put beside the layers (`LoraUse.runtime`).
        check: called before each tensor; may raise to interrupt.
        name: of the component, for the log.

    Raises:
        WeightsError: names or shapes differ, or a file cannot be read.
        OverlayError: a file changed after the overlay was made.
    """
    name = name or type(module).__name__
    _check_names(name, module, refs)
    counter, begin = ReadCounter(), time.perf_counter()
    quantised = replace_layers(module, refs, dtype or torch.bfloat16)
    plan = plan_loras(loras, refs, linear_weights(module), quantised)
    places = Together(module, apart=quantised)
    state, at_use = _read(refs, torch.device(device), dtype, plan, quantised, places, check, counter)
    module.load_state_dict(state, strict=True, assign=True)
    set_all_changes(module, at_use)
    counter.seconds = time.perf_counter() - begin
    _log.info("loaded %s: %d tensors, %s from %s in %.2f s to %s", name, counter.tensors, byte_text(counter.bytes),
              _files(refs), counter.seconds, device)
    return counter


def _check_names(name: str, module: nn.Module, refs: Mapping[str, AnyRef]) -> None:
    problems = differences(name, logical_shapes(module), refs)
    if problems:
        raise WeightsError("; ".join(problems), f"the tensors of {name}",
                           "Make the overlay again; if that does not help, download the weights again.")


def _read(refs: Mapping[str, AnyRef], device: torch.device, dtype: torch.dtype | None, plan: LoraPlan,
          quantised: Collection[str], places: Together, check: Callable[[], None] | None,
          counter: ReadCounter) -> tuple[dict[str, Tensor], dict[str, Sequence[Change]]]:
    """The module's tensors, LoRAs fused, and what acts at use. Those of ``quantised`` stay as blocks."""
    state: dict[str, Tensor] = {}
    at_use: dict[str, Sequence[Change]] = {}
    with closing(RangeReader(device)) as reader, torch.no_grad():
        read = counter.reading(reader)

        def prepared(parts: Sequence[Part], numbers: torch.dtype) -> list[Change]:
            return [prepare(part.update, part.strength, numbers, read) for part in parts]

        ordered = in_file_order(refs)
        reader.expect(ref.parts["weight"] if key in quantised else ref for key, ref in ordered)
        for key, ref in ordered:
            if check is not None:
                check()
            blocks = key in quantised
            weight = read(ref.parts["weight"], None) if blocks else places.placed(key, read(ref, dtype))
            state[key] = weight
            loras = plan.get(key)
            if loras is None:
                continue
            if loras.fused:
                apply(weight, prepared(loras.fused, weight.dtype))
            if loras.at_use:
                at_use[key] = prepared(loras.at_use, dtype or torch.bfloat16 if blocks else weight.dtype)
    return state, at_use


def _files(refs: Mapping[str, AnyRef]) -> str:
    names = list(dict.fromkeys(ref.path.name for ref in refs.values()))
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
