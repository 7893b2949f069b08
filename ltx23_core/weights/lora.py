"""LoRAs that take part in loading a component: fused into its weights, no copy of the base is kept (spec/01 §5)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import WeightsError
from ..overlay.lora_update import Update
from ..overlay.source import TensorRef


@dataclass(frozen=True)
class LoraUse:
    """One LoRA at one strength.

    Args:
        updates: parameter -> what changes it (`lora_pairs`, `LoraFile.updates[component]`); parameters that the
            module does not have are ignored, as the official code does.
        strength: factor of the change; 0 changes nothing and reads nothing.
    """

    updates: Mapping[str, Update]
    strength: float


def lora_pairs(tensors: Mapping[str, TensorRef]) -> dict[str, Update]:
    """Updates by parameter, from the names of an overlay's LoRA component (official pairs)."""
    a, b = ".lora_A.weight", ".lora_B.weight"
    return {name.removesuffix(a) + ".weight": Update("lora", {"a": ref, "b": tensors[name.removesuffix(a) + b]})
            for name, ref in tensors.items() if name.endswith(a)}


def check_update(name: str, shape: tuple[int, ...], update: Update) -> None:
    """Refuse an update that does not fit its parameter, before anything is read."""
    if update.delta_shape != shape:
        factors = ", ".join(f"{role} {list(ref.shape)}" for role, ref in update.tensors.items())
        path = next(iter(update.tensors.values())).path
        raise WeightsError(f"the LoRA of {path} changes {name} by factors {factors}",
                           f"a change of shape {list(shape)}", "Use a LoRA made for LTX-2.3.")
