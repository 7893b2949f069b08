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
from ..lora.layers import linear_weights, set_all_changes, set_layer_changes
from ..lora.plan import LoraPlan, LoraUse, Part, plan_loras
from ..ops.matmul import Together
from ..overlay.bytes.source import AnyRef, QuantRef
from ..overlay.names.architecture import differences
from ..overlay.packed.sizes import as_quantised, kept_parts, stays_quantised
from ..quant.layers import has_rows, logical_shapes, replace_layers
from ..weights.count import ReadCounter, byte_text
from ..weights.pages import Pages
from ..weights.reader import RangeReader, in_file_order, read_parts
from .arena import Arenas, loaded_dtype

_log = logging.getLogger("ltx23")


def load_module(module: nn.Module, refs: Mapping[str, AnyRef], device: torch.device | str,
                dtype: torch.dtype | None, *, loras: Sequence[LoraUse] = (),
                check: Callable[[], None] | None = None, name: str | None = None) -> ReadCounter:
    """Give a module all its weights, straight from the files. All or nothing: an interrupt leaves it as it was.

    Args:
        module: of `models.registry.build`; all its parameters and persistent buffers are replaced, so none of
            them stays on the meta device. Buffers that are in no file are left alone (Gemma restores its own).
        refs: parameter name -> byte range, exactly the module's.
        device: where the weights shall be.
        dtype: of floating-point weights; None: as stored. Quantised matrices stay as they are (`quant.layers`), and
            become this dtype when they are used.
        loras: fused while loading, in this order, or put beside the layers (`LoraUse.runtime`).
        check: called before each tensor; may raise to interrupt.
        name: of the component, for the log.

    Raises:
        WeightsError: names or shapes differ, or a file cannot be read.
        OverlayError: a file changed after the overlay was made.
    """
    name = name or type(module).__name__
    quantised = prepare_module(module, refs, dtype, name)
    plan = plan_loras(loras, refs, linear_weights(module), quantised)
    set_all_changes(module, {})
    return load_tensors(module, refs, torch.device(device), dtype, plan, check=check, name=name)


def prepare_module(module: nn.Module, refs: Mapping[str, AnyRef], dtype: torch.dtype | None, name: str) -> set[str]:
    """Check a module against its tensors and put quantised layers into it; returns the weights that stay quantised.

    Raises:
        WeightsError: names or shapes differ.
    """
    _check_names(name, module, refs)
    return replace_layers(module, refs, dtype or torch.bfloat16)


def load_tensors(module: nn.Module, refs: Mapping[str, AnyRef], device: torch.device, dtype: torch.dtype | None,
                 plan: LoraPlan, *, groups: Collection[Collection[str]] = (), pages: Pages | None = None,
                 check: Callable[[], None] | None = None, name: str = "module") -> ReadCounter:
    """Give a module some of its weights, all of these or none; what they have of LoRAs is as planned.

    Args:
        module: of `prepare_module`.
        refs: those to read.
        device, dtype, check, name: as in `load_module`.
        plan: of `plan_loras`; entries of other parameters do not count.
        groups: names of tensors that lie in one piece of memory each.
        pages: registered pages to read from where they can be had.
    """
    counter, begin = ReadCounter(), time.perf_counter()
    memory = Arenas(groups, refs, device, dtype)
    with closing(RangeReader(device, pages)) as reader, torch.no_grad():  # closing waits for the copies under way
        state, at_use = _read(module, refs, reader, dtype, plan, memory, check, counter)
        _assign(module, state)
        for key, changes in at_use.items():
            set_layer_changes(module, key, changes)
    counter.seconds = time.perf_counter() - begin
    _log.info("loaded %s: %d tensors, %s from %s in %.2f s to %s", name, counter.tensors, byte_text(counter.bytes),
              _files(refs), counter.seconds, device)
    return counter


def _check_names(name: str, module: nn.Module, refs: Mapping[str, AnyRef]) -> None:
    problems = differences(name, logical_shapes(module), refs)
    if problems:
        raise WeightsError("; ".join(problems), f"the tensors of {name}",
                           "Make the overlay again; if that does not help, download the weights again.")


def _assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make tensors the module's parameters and buffers, by name; `load_state_dict` takes five times as long."""
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        old = owner._parameters.get(leaf)
        if old is None:
            owner._buffers[leaf] = tensor
        else:
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)


def _read(module: nn.Module, refs: Mapping[str, AnyRef], reader: RangeReader, dtype: torch.dtype | None,
          plan: LoraPlan, memory: Arenas, check: Callable[[], None] | None,
          counter: ReadCounter) -> tuple[dict[str, Tensor], dict[str, Sequence[Change]]]:
    """The module's tensors, LoRAs fused, and what acts at use. Those that stay quantised come part by part."""
    state: dict[str, Tensor] = {}
    at_use: dict[str, Sequence[Change]] = {}
    read = counter.reading(reader)

    def prepared(parts: Sequence[Part], numbers: torch.dtype) -> list[Change]:
        return [prepare(part.update, part.strength, numbers, read) for part in parts]

    ordered = in_file_order(refs)
    apart, by_row, expected = [], [], []
    for key, ref in ordered:
        if stays_quantised(key, ref):
            apart.append(key)
        if has_rows(ref):
            by_row.append(key)
        expected.append(ref)
    places = Together(module, apart, by_row)
    reader.expect(expected)
    for key, ref in ordered:
        if check is not None:
            check()
        quantised = stays_quantised(key, ref)
        if quantised:
            parts = _quantised_parts(reader, key, as_quantised(ref), memory, places)
            for part in read_parts(as_quantised(ref)).values():
                counter.count(part)
        else:
            kind = loaded_dtype(ref, dtype)
            parts = {key: read(ref, dtype, places.room(key, ref.shape, kind, memory.take))}
        state |= parts
        loras = plan.get(key)
        if loras is None:
            continue
        if loras.fused:
            apply(parts[key], prepared(loras.fused, parts[key].dtype))
        if loras.at_use:
            kind = parts[key].dtype
            if quantised:
                kind = dtype or torch.bfloat16
            at_use[key] = prepared(loras.at_use, kind)
    return state, at_use


def _quantised_parts(reader: RangeReader, key: str, ref: QuantRef, memory: Arenas,
                     together: Together) -> dict[str, Tensor]:
    """The parts of a weight that stays quantised, under the names that the module has for them."""
    def take(_name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return memory.take(key, shape, dtype)

    layer, places = key.removesuffix("weight"), {}
    for name, part in kept_parts(ref).items():
        places[name] = together.room(layer + name, part.shape, loaded_dtype(part, None), take)
    return {layer + name: part for name, part in reader.parts(ref, places).items()}


def _files(refs: Mapping[str, AnyRef]) -> str:
    names = list(dict.fromkeys(ref.path.name for ref in refs.values()))
    text = ", ".join(names[:2])
    if len(names) > 2:
        text += f" and {len(names) - 2} more"
    return text
