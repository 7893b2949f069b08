"""What is streamed of one block: byte ranges, where each lies in the block's place, and which parameter it becomes."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from ..lora.apply import Change, apply, finite, prepare
from ..lora.layers import set_layer_changes
from ..lora.plan import LoraPlan, ParameterLoras, Part
from ..memory.pieces import aligned
from ..ops.matmul import Together
from ..overlay.bytes.source import AnyRef, QuantRef, TensorRef
from ..overlay.packed.sizes import as_quantised, kept_parts, stays_quantised
from ..quant.layers import coded_groups
from ..weights.dequant import dequantise
from ..weights.quantise import quantise
from ..weights.reader import TORCH_DTYPES, RangeReader

Views = Mapping[str, Tensor]
_NOTHING = ParameterLoras()
_FINITE: set[TensorRef] = set()  # factors that were looked at; a file that changes has other references


@dataclass
class Target:
    """A parameter or buffer of a block.

    Args:
        name: of the tensor in the block.
        owner, leaf: module, and its name there.
        spans: part -> (its bytes in the file, where they lie in the place).
        make: from the parts as stored; None: the one part itself.
        fused: LoRA updates of it, whose tensors are parts too: (update, role -> part).
    """

    name: str
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
        if self.leaf in self.owner._parameters:
            return self.owner._parameters
        return self.owner._buffers

    def views(self, place: Tensor) -> dict[str, Tensor]:
        """The parts as tensors of the place."""
        views = {}
        for name, (ref, at) in self.spans.items():
            stored = place[at:at + ref.size_bytes].view(TORCH_DTYPES[ref.dtype])
            views[name] = stored.view(ref.shape)
        return views

    def value(self, views: Views) -> Tensor:
        """What the parameter is, LoRAs fused."""
        weight = views["weight"] if self.make is None else self.make(views)
        if self.fused:
            apply(weight, [_filled(change, roles, views, weight) for change, roles in self.fused])
        return weight

    def put(self, tensor: Tensor | None) -> None:
        """Let it be the parameter."""
        table = self._table
        if tensor is not None and table is self.owner._parameters and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
        table[self.leaf] = tensor


def _filled(change: Change, roles: Mapping[str, str], views: Views, weight: Tensor) -> Change:
    """A change with the factors that are there."""
    dtype = _factor_dtype(change.plain, weight.dtype)
    tensors = {}
    for role, name in roles.items():
        tensors[role] = views[name].to(dtype)
    return replace(change, tensors=tensors)


def _factor_dtype(plain: bool, dtype: torch.dtype) -> torch.dtype:
    if plain:
        return dtype
    return torch.float32


class MadeParts:
    """Parts of a weight that is quantised when it is there: all are made when the first one is asked for.

    Args:
        ref: the weight.
    """

    def __init__(self, ref: QuantRef) -> None:
        """Nothing is made yet."""
        self._ref = ref
        self._made: dict[str, Tensor] = {}

    def take(self, name: str, views: Views) -> Tensor:
        """A part, once; ``views`` of the first one have the numbers."""
        if name not in self._made:
            numbers = views["weight"]
            for part, ref in self._ref.parts.items():
                self._made[part] = numbers.new_empty(ref.shape, dtype=TORCH_DTYPES[ref.dtype])
            quantise(self._ref.format, numbers, self._made)
        return self._made.pop(name)


# A target, its parts in a place, and the parameter if it is nothing but these bytes.
Ready = tuple[Target, dict[str, Tensor], nn.Parameter | Tensor | None]


class BlockContent:
    """All that is streamed of one block."""

    def __init__(self, block: nn.Module, refs: Mapping[str, AnyRef], dtype: torch.dtype,
                 loras: LoraPlan) -> None:
        """Read nothing but the scales of LoRAs; layers get their LoRA updates at use.

        Args:
            block: with its quantised layers in place, on the meta device.
            refs: its tensors, by their names in the block.
            dtype: of the numbers.
            loras: on these.
        """
        self._block, self._refs, self._dtype, self._end = block, refs, dtype, 0
        self._ready: dict[int, list[Ready]] = {}  # by the number of the place
        self._targets: list[Target] = []
        self._apart = [name for name, ref in refs.items() if stays_quantised(name, ref)]
        self._changed: list[str] = []
        for name, parts in loras.items():
            if parts.at_use and name in refs:
                set_layer_changes(block, name, _skeletons(parts.at_use, dtype))
                self._changed.append(name)
        self._joined: set[str] = set()  # names that are laid together when they are bound
        self._lay_out()
        for target in list(self._targets):
            self._add_factors(target, loras.get(target.name, _NOTHING))

    def _lay_out(self) -> None:
        """A place for each tensor; those of layers that make one product (`ops.matmul`) follow each other."""
        groups = _groups(self._block, self._apart)
        grouped: set[str] = set()
        for group in groups:
            grouped.update(group)
            if any(_casts(self._refs[name], self._dtype) for name in group):
                self._joined.update(group)
        for group in groups:
            for number, name in enumerate(group):
                self._add(name, self._refs[name], follows=number > 0 and name not in self._joined)
        for group in coded_groups(self._block, self._refs):
            if self._refs[group[0]].origin is None:
                grouped.update(group)
                self._add_codes(group)
        for name, ref in self._refs.items():
            if name not in grouped:
                self._add(name, ref, follows=False)

    @property
    def size(self) -> int:
        """Bytes of a place for it."""
        return aligned(self._end)

    def parts(self, place: Tensor) -> list[tuple[TensorRef, Tensor]]:
        """What is read, and where to: 1-D bytes of the place."""
        parts = []
        for target in self._targets:
            for ref, at in target.spans.values():
                parts.append((ref, place[at:at + ref.size_bytes]))
        return parts

    def bind(self, number: int, place: Tensor) -> None:
        """Make the bytes in a place the block's parameters.

        Args:
            number: of the place; it is the same memory at every call.
            place: its bytes.
        """
        if number not in self._ready:
            self._ready[number] = self._made_ready(place)
        joined = None
        if self._joined:
            joined = Together(self._block, self._apart)
        for target, views, value in self._ready[number]:
            if value is None:
                value = target.value(views)
            if target.name in self._joined:
                value = joined.placed(target.name, value)
            target.put(value)

    def _made_ready(self, place: Tensor) -> list[Ready]:
        """What is the same at each binding to a place."""
        ready = []
        for target in self._targets:
            views = target.views(place)
            ready.append((target, views, self._fixed(target, views)))
        return ready

    def _fixed(self, target: Target, views: dict[str, Tensor]) -> Tensor | None:
        """The parameter, if it is nothing but bytes of the place."""
        if target.make is not None or target.fused or target.name in self._joined:
            return None
        weight = views["weight"]
        if target.leaf in target.owner._parameters:
            return nn.Parameter(weight, requires_grad=False)
        return weight

    def unbind(self) -> None:
        """The block is away."""
        for target in self._targets:
            target.put(target.away)

    def close(self) -> None:
        """Let go of the places, and take the LoRAs off the layers. The block is away."""
        self._ready.clear()
        for name in self._changed:
            set_layer_changes(self._block, name, ())

    def _add(self, name: str, ref: AnyRef, follows: bool) -> None:
        """A tensor of the block; ``follows``: right behind the one before."""
        path, _, leaf = name.rpartition(".")
        owner = self._block.get_submodule(path)
        if name in self._apart:
            self._add_quantised(name, owner, as_quantised(ref))
            return
        spans = {}
        if isinstance(ref, TensorRef):
            spans["weight"] = self._span(ref, follows)
        else:
            for part, stored in kept_parts(ref).items():
                spans[part] = self._span(stored)
        self._targets.append(Target(name, owner, leaf, spans, _maker(ref, self._dtype)))

    def _add_codes(self, names: Sequence[str]) -> None:
        """Quantised weights that make one product: their codes behind each other, and their scales."""
        for part in kept_parts(self._refs[names[0]]):
            for number, name in enumerate(names):
                owner = self._block.get_submodule(name.removesuffix(".weight"))
                span = self._span(kept_parts(self._refs[name])[part], follows=number > 0)
                self._targets.append(Target(name, owner, part, {"weight": span}))

    def _add_quantised(self, name: str, owner: nn.Module, ref: QuantRef) -> None:
        """The parts of a weight that stays quantised: bytes of the place, or made of such bytes."""
        if ref.origin is None:
            for part, stored in kept_parts(ref).items():
                self._targets.append(Target(name, owner, part, {"weight": self._span(stored)}))
            return
        made = MadeParts(ref)
        for part in ref.parts:
            self._targets.append(Target(name, owner, part, {}, make=partial(made.take, part)))
        self._targets[-len(ref.parts)].spans["weight"] = self._span(ref.origin)

    def _add_factors(self, target: Target, loras: ParameterLoras) -> None:
        """The factors of LoRAs on a tensor: fused ones as parts of it, those at use as buffers of its layer."""
        if not target.name.endswith(target.leaf):
            return  # a scale
        changes = []
        for number, change in enumerate(_skeletons(loras.fused, self._dtype)):
            roles = {}
            for role, ref in loras.fused[number].update.tensors.items():
                roles[role] = f"lora_{number}_{role}"
                target.spans[roles[role]] = self._span(ref)
            changes.append((change, roles))
        target.fused = tuple(changes)
        for number, part in enumerate(loras.at_use):
            wanted = _factor_dtype(part.update.plain, self._dtype)
            for role, ref in part.update.tensors.items():
                leaf = f"lora_{number}_{role}"
                self._targets.append(Target(leaf, target.owner, leaf, {"weight": self._span(ref)},
                                            _maker(ref, wanted)))

    def _span(self, ref: TensorRef, follows: bool = False) -> tuple[TensorRef, int]:
        at = self._end
        if not follows:
            at = aligned(at)
        self._end = at + ref.size_bytes
        return ref, at


def _casts(ref: AnyRef, dtype: torch.dtype) -> bool:
    """Whether a tensor's numbers are not the bytes that are stored."""
    if not isinstance(ref, TensorRef):
        return True
    stored = TORCH_DTYPES[ref.dtype]
    return stored.is_floating_point and stored != dtype


def _maker(ref: AnyRef, dtype: torch.dtype) -> Callable[[Views], Tensor] | None:
    """How a tensor's parts become numbers; None: they are."""
    if not _casts(ref, dtype):
        return None
    if isinstance(ref, TensorRef):
        return lambda views: views["weight"].to(dtype)
    return lambda views: dequantise(ref.format, views, ref.parameters, ref.shape, dtype)


def _groups(block: nn.Module, apart: Collection[str]) -> list[list[str]]:
    """Names of parameters that lie behind each other in a resident block: those of `ops.matmul.Together`."""
    found = []
    for path, part in block.named_modules():
        for layers in getattr(part, "together", ()):
            weights, biases = [], []
            for layer in layers:
                name = ".".join(filter(None, (path, layer)))
                weights.append(f"{name}.weight")
                biases.append(f"{name}.bias")
            if set(weights).isdisjoint(apart):
                found += [weights, biases]
    return found


def _skeletons(parts: tuple[Part, ...], dtype: torch.dtype) -> list[Change]:
    """LoRA updates whose tensors are on the meta device; only their scales are kept."""
    reader = RangeReader(torch.device("cpu"))
    for part in parts:
        for role, ref in part.update.tensors.items():
            if ref not in _FINITE:
                finite(reader.read(ref, None), role, ref)
                _FINITE.add(ref)

    def read(ref: TensorRef, wanted: torch.dtype | None) -> Tensor:
        if prod(ref.shape) == 1:  # an alpha
            return reader.read(ref, wanted)
        return torch.empty(ref.shape, dtype=wanted, device="meta")

    try:
        return [prepare(part.update, part.strength, dtype, read) for part in parts]
    finally:
        reader.close()
