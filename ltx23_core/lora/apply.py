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
        return torch.kron(self._kronecker("w1"), self._kronecker("w2"))

    def _kronecker(self, name: str) -> Tensor:
        """A factor of a Kronecker product: stored whole, or as a product of two."""
        if name in self.tensors:
            return self.tensors[name]
        return self.tensors[f"{name}_a"] @ self.tensors[f"{name}_b"]

    def _decomposed(self, weight: Tensor, changed: Tensor) -> Tensor:
        """DoRA: directions of the changed weight, lengths of its own.

        PEFT (and musubi) divides by the lengths of the changed rows. ComfyUI divides by those of the *original* rows,
        or by those of the changed columns, by the axis of ``dora_scale``.
        """
        if self.dora == "input":
            length, magnitude = changed.norm(dim=0, keepdim=True), self.tensors["magnitude"].view(1, -1)
        else:
            rows = weight
            if self.dora == "peft":
                rows = changed
            length = rows.norm(dim=1, keepdim=True)
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
    if not update.plain:
        dtype = torch.float32
    tensors = {}
    for role, ref in update.tensors.items():
        tensors[role] = finite(read(ref, dtype), role, ref)
    alpha = update.alpha
    if isinstance(alpha, TensorRef):
        alpha = float(read(alpha, torch.float32).item())
    scale = 1.0
    if alpha is not None and update.rank_stabilised:
        scale = alpha / update.rank ** 0.5
    elif alpha is not None:
        scale = alpha / update.rank
    return Change(update.kind, tensors, scale, strength=strength, dora=update.dora)


def finite(factor: Tensor, role: str, ref: TensorRef) -> Tensor:
    """A factor as it was read; a NaN or infinity in it is named here, before it spoils a whole run.

    One on the meta device has no numbers: who streams it has looked at them before.
    """
    if factor.is_meta or not factor.numel():
        return factor
    low, high = map(float, torch.aminmax(factor))
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
        return fuse(weight, list(map(_plain_factors, changes)))
    exact = weight.float()
    for change in changes:
        if change.plain:
            exact_tensors = {role: tensor.float() for role, tensor in change.tensors.items()}
            change = replace(change, tensors=exact_tensors)
        exact = change.apply(exact)
    return weight.copy_(exact)


def _plain_factors(change: Change) -> tuple[Tensor, Tensor, float]:
    """A and B of a plain LoRA, and what their product is multiplied by."""
    return change.tensors["a"], change.tensors["b"], change.strength * change.scale


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
    if delta is None:
        return weight
    return weight.add_(delta)
