"""Which LoRAs change which parameter, and how: fused into the weight, or added when the layer is used (spec/01 §5)."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from ..errors import WeightsError
from ..overlay.bytes.source import AnyRef, SourceFile
from ..overlay.lora.update import Update


@dataclass(frozen=True)
class LoraUse:
    """One LoRA at one strength.

    Args:
        updates: parameter -> what changes it (`lora_pairs`, `LoraFile.updates[component]`); parameters that the
            module does not have are ignored, as the official code does.
        strength: factor of the change. 0 changes nothing; fused, it reads nothing either.
        runtime: add B (A x) to the output of the layers, where the factors then stay on the device, also at
            strength 0. What cannot be added so (`plan_loras`) is fused.
    """

    updates: Mapping[str, Update]
    strength: float
    runtime: bool = False


class Part(NamedTuple):
    """One update of one parameter, and the state of its file, which tells a replaced file from an equal one."""

    update: Update
    strength: float
    source: SourceFile | None

    def same_tensors(self, other: Part) -> bool:
        """Whether only the strength may differ."""
        return self.update == other.update and self.source == other.source


class ParameterLoras(NamedTuple):
    """What acts on one parameter, each in the order of the LoRAs."""

    fused: tuple[Part, ...] = ()
    at_use: tuple[Part, ...] = ()


LoraPlan = dict[str, ParameterLoras]


def lora_pairs(tensors: Mapping[str, AnyRef]) -> dict[str, Update]:
    """Updates by parameter, from the names of an overlay's LoRA component (`overlay.find.companions`)."""
    a, b = ".lora_A.weight", ".lora_B.weight"
    updates = {}
    for name, ref in tensors.items():
        module, _, ending = name.rpartition(".diff")
        if name.endswith(a):
            module = name.removesuffix(a)
            pair = {"a": ref, "b": tensors[module + b]}
            alpha = tensors.get(f"{module}.alpha")
            updates[f"{module}.weight"] = Update("lora", pair)
            if alpha is not None:
                updates[f"{module}.weight"] = Update("lora", pair, alpha, rank=ref.shape[0])
        elif module and ending:
            updates[f"{module}.bias"] = Update("diff", {"diff": ref})
        elif module:
            updates[f"{module}.weight"] = Update("diff", {"diff": ref})
    return updates


def check_update(name: str, shape: tuple[int, ...], update: Update) -> None:
    """Refuse an update that does not fit its parameter, before anything is read."""
    if update.delta_shape != shape:
        factors = ", ".join(f"{role} {list(ref.shape)}" for role, ref in update.tensors.items())
        path = next(iter(update.tensors.values())).path
        raise WeightsError(f"the LoRA of {path} changes {name} by factors {factors}",
                           f"a change of shape {list(shape)}", "Use a LoRA made for LTX-2.3.")


def plan_loras(loras: Sequence[LoraUse], refs: Mapping[str, AnyRef], linears: Collection[str],
               quantised: Collection[str]) -> LoraPlan:
    """Sort LoRAs by parameter.

    At use acts: everything on a layer whose weight stays quantised (its numbers are made at each use anyway), and
    plain pairs of `LoraUse.runtime` on an ordinary Linear. All else is fused: DoRA, LoHa, LoKr, full differences,
    biases and tables need the changed weight itself. Where such a kind acts on a weight, the plain pairs on that
    weight are fused with it: it may depend on what came before it.

    Args:
        loras: in order.
        refs: the component's tensors.
        linears: names of the weights of its Linear layers.
        quantised: names of the weights that stay quantised.

    Raises:
        WeightsError: an update does not fit its parameter.
    """
    found: dict[str, list[tuple[Part, bool]]] = {}
    for lora in loras:
        if not lora.strength and not lora.runtime:
            continue
        for name, update in lora.updates.items():
            if name in refs:
                check_update(name, refs[name].shape, update)
                source = next(iter(update.tensors.values())).source
                found.setdefault(name, []).append((Part(update, lora.strength, source), lora.runtime))
    plan = {}
    for name, parts in found.items():
        placed = _placed(parts, name in linears, name in quantised)
        if placed.fused or placed.at_use:
            plan[name] = placed
    return plan


def _placed(parts: Sequence[tuple[Part, bool]], linear: bool, quantised: bool) -> ParameterLoras:
    addable = linear and all(part.update.plain for part, _ in parts)
    fused, at_use = [], []
    for part, runtime in parts:
        if quantised or (addable and runtime):
            at_use.append(part)
        elif part.strength:
            fused.append(part)
    return ParameterLoras(tuple(fused), tuple(at_use))


def factor_bytes(plan: LoraPlan, itemsize: int) -> int:
    """Bytes of the factors that stay on the device.

    Args:
        plan: of `plan_loras`.
        itemsize: bytes of a number of the weights; factors of plain pairs have their dtype, all others float32.
    """
    total = 0
    for parameter in plan.values():
        for part in parameter.at_use:
            bytes_of_one = 4
            if part.update.plain:
                bytes_of_one = itemsize
            for ref in part.update.tensors.values():
                total += prod(ref.shape) * bytes_of_one
    return total
