"""LoRA updates as tensors, and what they make of a weight (spec/09 §5)."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import WeightsError
from ..overlay.bytes.source import AnyRef, TensorRef
from ..overlay.lora.update import Update

Read = Callable[[AnyRef, "torch.dtype | None"], Tensor]


@dataclass(frozen=True)
class Change:
    """An update whose tensors are on the device.

    Args:
        kind, dora: of the update.
        tensors: role -> tensor; in the weight's dtype for a plain LoRA, else float32.
        scale: of the product: alpha / rank or alpha / √rank; 1 without alpha.
        strength: the user's factor of what the LoRA changes.
    """

    kind: str
    tensors: Mapping[str, Tensor] = field(hash=False)
    scale: float
    strength: float
    dora: str = ""

    @property
    def plain(self) -> bool:
        """Whether this is B A and nothing else, which the official code has an order of roundings for."""
        return self.kind == "lora" and not self.dora

    def with_strength(self, strength: float) -> Change:
        """The same at another strength."""
        return replace(self, strength=strength)

    def apply(self, weight: Tensor) -> Tensor:
        """The changed weight, float32, new."""
        if self.kind == "set":  # as in ComfyUI: whatever the strength
            return self.tensors["set"].to(weight, copy=True)
        delta = self.scale * self._delta()
        if not self.dora:
            return weight + self.strength * delta
        return weight + self.strength * (self._decomposed(weight, weight + delta) - weight)

    def _delta(self) -> Tensor:
        t = self.tensors
        if self.kind == "lora":
            return t["b"] @ t["a"]
        if self.kind == "diff":
            return t["diff"]
        if self.kind == "loha":
            return (t["h1_a"] @ t["h1_b"]) * (t["h2_a"] @ t["h2_b"])
        return torch.kron(*(t[w] if w in t else t[w + "_a"] @ t[w + "_b"] for w in ("w1", "w2")))

    def _decomposed(self, weight: Tensor, changed: Tensor) -> Tensor:
        """DoRA: directions of the changed weight, lengths of its own.

        PEFT (and musubi) divides by the lengths of the changed rows. ComfyUI divides by those of the *original* rows,
        or by those of the changed columns, by the axis of ``dora_scale``.
        """
        if self.dora == "input":
            length, magnitude = changed.norm(dim=0, keepdim=True), self.tensors["magnitude"].view(1, -1)
        else:
            length = (changed if self.dora == "peft" else weight).norm(dim=1, keepdim=True)
            magnitude = self.tensors["magnitude"].view(-1, 1)
        return changed * (magnitude / (length + torch.finfo(torch.float32).eps))


def prepare(update: Update, strength: float, dtype: torch.dtype, read: Read) -> Change:
    """Read the tensors of an update.

    Args:
        update: of `overlay.lora_dialects.read_lora`.
        strength: the user's.
        dtype: of the weight.
        read: (tensor, dtype or None: as stored) -> tensor on the device.
    """
    tensors = {role: finite(read(ref, dtype if update.plain else torch.float32), role, ref)
               for role, ref in update.tensors.items()}
    alpha = update.alpha
    if isinstance(alpha, TensorRef):
        alpha = float(read(alpha, torch.float32).item())
    divisor = update.rank ** 0.5 if update.rank_stabilised else update.rank
    return Change(update.kind, tensors, 1.0 if alpha is None else alpha / divisor, strength, update.dora)


def finite(factor: Tensor, role: str, ref: TensorRef) -> Tensor:
    """A factor as it was read; a NaN or infinity in it is named here, before it spoils a whole run.

    One on the meta device has no numbers: who streams it has looked at them before.
    """
    if factor.is_meta:
        return factor
    low, high = (float(value) for value in torch.aminmax(factor)) if factor.numel() else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise WeightsError(f"{ref.path.name} holds NaN or infinity in a factor ({role} at byte {ref.start})",
                           "finite numbers", "Download or train the LoRA again, or take it away.")
    return factor


def apply(weight: Tensor, changes: Sequence[Change]) -> Tensor:
    """Change a weight in place, in its own dtype.

    Plain LoRAs are fused in the official order of roundings (`fuse`). Where any other kind takes part, everything is
    added in float32, in order, and rounded once.
    """
    if all(change.plain for change in changes):
        return fuse(weight, [(c.tensors["a"], c.tensors["b"], c.strength * c.scale) for c in changes])
    exact = weight.float()
    for change in changes:
        if change.plain:
            change = replace(change, tensors={role: t.float() for role, t in change.tensors.items()})
        exact = change.apply(exact)
    return weight.copy_(exact)


def fuse(weight: Tensor, factors: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Add LoRAs to a weight in place, in the weight's dtype and with the official order of roundings.

    The first product is (B * strength) @ A, rounded after each step; further ones are added to it; the weight
    comes last. In bfloat16 this is the official default, in float32 the exact sum.

    Args:
        weight: (out, in).
        factors: (A (r, in), B (out, r), strength) of each LoRA, in order, in the weight's dtype and device.
    """
    delta: Tensor | None = None
    for a, b, strength in factors:
        delta = (b * strength) @ a if delta is None else torch.addmm(delta, b, a, alpha=strength)
    return weight if delta is None else weight.add_(delta)
