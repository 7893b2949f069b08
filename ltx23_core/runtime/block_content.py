"""What is streamed of one block: byte ranges, where each lies in the block's place, and which parameter it becomes."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from ..lora.apply import Change, apply, prepare
from ..lora.layers import set_layer_changes
from ..lora.plan import LoraPlan, Part
from ..overlay.bytes.source import AnyRef, TensorRef
from ..quant.layers import as_quantised, kept_parts, stays_quantised
from ..weights.dequant import dequantise, needed
from ..weights.reader import TORCH_DTYPES, RangeReader
from .sizes import aligned

Views = Mapping[str, Tensor]


@dataclass
class Target:
    """A parameter or buffer of a block.

    Args:
        owner, leaf: module, and its name there.
        spans: part -> (its bytes in the file, where they lie in the place).
        make: from the parts as stored; None: the one part itself.
        fused: LoRA updates of it, whose tensors are parts too: (update, role -> part).
    """

    owner: nn.Module
    leaf: str
    spans: dict[str, tuple[TensorRef, int]]
    make: Callable[[Views], Tensor] | None = None
    fused: tuple[tuple[Change, dict[str, str]], ...] = ()

    def __post_init__(self) -> None:
        """Remember what stands there while the block is away."""
        self.away = self._table[self.leaf]

    @property
    def _table(self) -> dict[str, Tensor | None]:
        return self.owner._parameters if self.leaf in self.owner._parameters else self.owner._buffers

    def views(self, place: Tensor) -> dict[str, Tensor]:
        """The parts as tensors of the place."""
        return {name: place[at:at + ref.size_bytes].view(TORCH_DTYPES[ref.dtype]).view(ref.shape)
                for name, (ref, at) in self.spans.items()}

    def value(self, views: Views) -> Tensor:
        """What the parameter is, LoRAs fused."""
        weight = views["weight"] if self.make is None else self.make(views)
        if self.fused:
            apply(weight, [replace(change, tensors={role: views[name].to(_factor_dtype(change, weight))
                                                    for role, name in roles.items()})
                           for change, roles in self.fused])
        return weight

    def put(self, tensor: Tensor | None) -> None:
        """Let it be the parameter."""
        table = self._table
        if tensor is not None and table is self.owner._parameters and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        table[self.leaf] = tensor


def _factor_dtype(change: Change, weight: Tensor) -> torch.dtype:
    return weight.dtype if change.plain else torch.float32


class BlockContent:
    """All that is streamed of one block."""

    def __init__(self, block: nn.Module, refs: Mapping[str, AnyRef], dtype: torch.dtype, loras: LoraPlan) -> None:
        """Read nothing but the scales of LoRAs; layers get their LoRA updates at use.

        Args:
            block: with its quantised layers in place, on the meta device.
            refs: its tensors, by their names in the block.
            dtype: of the numbers.
            loras: on these.
        """
        self._end = 0
        self._ready: dict[int, list[tuple[Target, dict[str, Tensor], nn.Parameter | Tensor | None]]] = {}
        self._targets: list[Target] = []
        self._block = block
        self._changed = tuple(name for name, parts in loras.items() if parts.at_use and name in refs)
        for name in self._changed:
            set_layer_changes(block, name, _skeletons(loras[name].at_use, dtype))
        for name, ref in refs.items():
            self._add(block, name, ref, dtype, loras)

    @property
    def size(self) -> int:
        """Bytes of a place for it."""
        return self._end

    def parts(self, place: Tensor) -> list[tuple[TensorRef, Tensor]]:
        """What is read, and where to: 1-D bytes of the place."""
        return [(ref, place[at:at + ref.size_bytes]) for target in self._targets for ref, at in target.spans.values()]

    def bind(self, number: int, place: Tensor) -> None:
        """Make the bytes in a place the block's parameters.

        Args:
            number: of the place; it is the same memory at every call.
            place: its bytes.
        """
        if number not in self._ready:
            self._ready[number] = [(target, views, self._fixed(target, views)) for target in self._targets
                                   for views in (target.views(place),)]
        for target, views, fixed in self._ready[number]:
            target.put(target.value(views) if fixed is None else fixed)

    @staticmethod
    def _fixed(target: Target, views: dict[str, Tensor]) -> Tensor | None:
        """The parameter, if it is nothing but bytes of the place."""
        if target.make is not None or target.fused:
            return None
        weight = views["weight"]
        return nn.Parameter(weight, requires_grad=False) if target.leaf in target.owner._parameters else weight

    def unbind(self) -> None:
        """The block is away."""
        for target in self._targets:
            target.put(target.away)

    def close(self) -> None:
        """Let go of the places, and take the LoRAs off the layers. The block is away."""
        self._ready.clear()
        for name in self._changed:
            set_layer_changes(self._block, name, ())

    def _add(self, block: nn.Module, name: str, ref: AnyRef, dtype: torch.dtype, loras: LoraPlan) -> None:
        path, _, leaf = name.rpartition(".")
        owner, on_it = block.get_submodule(path), loras.get(name)
        fused = on_it.fused if on_it is not None else ()
        if stays_quantised(name, ref):
            for part, bytes_of in kept_parts(as_quantised(ref)).items():
                self._targets.append(Target(owner, part, {"weight": self._span(bytes_of)}))
        elif isinstance(ref, TensorRef):
            self._plain(owner, leaf, ref, dtype, fused)
        else:
            spans = {part: self._span(ref.parts[part]) for part in needed(ref.format) if part in ref.parts}
            self._targets.append(self._with_loras(Target(owner, leaf, spans, lambda views: dequantise(
                ref.format, views, ref.parameters, ref.shape, dtype)), fused, dtype))
        for number, part in enumerate(on_it.at_use if on_it is not None else ()):
            numbers = dtype if part.update.plain else torch.float32
            for role, factor in part.update.tensors.items():
                self._plain(owner, f"lora_{number}_{role}", factor, numbers, ())

    def _plain(self, owner: nn.Module, leaf: str, ref: TensorRef, dtype: torch.dtype, fused: tuple[Part, ...]) -> None:
        stored = TORCH_DTYPES[ref.dtype]
        casts = stored.is_floating_point and stored != dtype
        make = (lambda views: views["weight"].to(dtype)) if casts else None
        self._targets.append(self._with_loras(Target(owner, leaf, {"weight": self._span(ref)}, make), fused, dtype))

    def _with_loras(self, target: Target, fused: tuple[Part, ...], dtype: torch.dtype) -> Target:
        """The target with the factors of its LoRAs as further parts."""
        changes = []
        for number, (part, change) in enumerate(zip(fused, _skeletons(fused, dtype), strict=True)):
            roles = {role: f"lora_{number}_{role}" for role in part.update.tensors}
            target.spans |= {roles[role]: self._span(ref) for role, ref in part.update.tensors.items()}
            changes.append((change, roles))
        target.fused = tuple(changes)
        return target

    def _span(self, ref: TensorRef) -> tuple[TensorRef, int]:
        at = self._end
        self._end += aligned(ref.size_bytes)
        return ref, at


def _skeletons(parts: tuple[Part, ...], dtype: torch.dtype) -> list[Change]:
    """LoRA updates whose tensors are on the meta device; only their scales are read."""
    reader = RangeReader(torch.device("cpu"))

    def read(ref: TensorRef, wanted: torch.dtype | None) -> Tensor:
        if prod(ref.shape) == 1:  # an alpha
            return reader.read(ref, wanted)
        return torch.empty(ref.shape, dtype=wanted, device="meta")

    try:
        return [prepare(part.update, part.strength, dtype, read) for part in parts]
    finally:
        reader.close()
