"""What the tensors of one module in a LoRA file do to the module's parameters (spec/09 §5)."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from ..bytes.source import AnyRef
from ..names.architecture import Shapes
from .alpha import Scales

# Kind, the roles it needs, the role whose rows are the rank ("": alpha does not count). The first that fits is it.
_ROWS = (("lora", "a b", "a"), ("lokr", "w1 w2", ""), ("lokr", "w1 w2_a w2_b", "w2_b"),
         ("lokr", "w1_a w1_b w2", "w1_b"), ("lokr", "w1_a w1_b w2_a w2_b", "w2_b"),
         ("loha", "h1_a h1_b h2_a h2_b", "h1_b"), ("set", "set", ""), ("diff", "diff", ""))
_KINDS = tuple((kind, frozenset(roles.split()), rank) for kind, roles, rank in _ROWS)
_PRODUCTS = ("lora", "lokr", "loha")
_TUCKER = {"mid", "lokr_t2", "hada_t1", "hada_t2"}
_LEFT = {"alpha": "an alpha without anything to "
                  "scale", "a_bias": "a bias between the factors, which no tool writes",
         "diff_b": "the module has no bias", "b_bias": "the module has no bias",
         "diff": "a second update of the same weight", "set": "a second update of the same weight",
         "dora_scale": "a magnitude without factors", "magnitude": "a magnitude without factors"}


@dataclass(frozen=True)
class Update:
    """What a LoRA file does to one parameter.

    Args:
        kind: "lora" (B A), "lokr" (w1 ⊗ w2), "loha" (w1 ∘ w2), "diff" (is added), "set" (takes its place).
        tensors: role -> tensor: a, b | w1 or w1_a, w1_b, w2 or w2_a, w2_b | h1_a, h1_b, h2_a, h2_b | diff | set;
            "magnitude" too where ``dora`` is set.
        alpha: the file's alpha; None: the product is not scaled.
        rank: what alpha is divided by.
        rank_stabilised: alpha is divided by the root of the rank (rsLoRA).
        dora: "" (none), "output" or "input" (ComfyUI's ``dora_scale``, by its axis), or "peft".
    """

    kind: str
    tensors: Mapping[str, AnyRef] = field(hash=False)
    alpha: AnyRef | float | None = None
    rank: int = 1
    rank_stabilised: bool = False
    dora: str = ""

    @property
    def plain(self) -> bool:
        """Whether this is B A and nothing else."""
        return self.kind == "lora" and not self.dora

    @property
    def refs(self) -> tuple[AnyRef, ...]:
        """Every tensor that is read."""
        if isinstance(self.alpha, AnyRef):
            return (*self.tensors.values(), self.alpha)
        return tuple(self.tensors.values())

    @property
    def delta_shape(self) -> tuple[int, ...] | None:
        """Shape of what is added; None where the factors do not fit each other."""
        shapes = {role: ref.shape for role, ref in self.tensors.items()}
        if self.kind in ("diff", "set"):
            return shapes[self.kind]
        if self.kind == "lora":
            return _product(shapes["b"], shapes["a"])
        if self.kind == "loha":
            first, second = _product(shapes["h1_a"], shapes["h1_b"]), _product(shapes["h2_a"], shapes["h2_b"])
            if first != second:
                return None
            return first
        first, second = _factor(shapes, "w1"), _factor(shapes, "w2")
        if first is None or second is None or len(first) != 2 or len(second) != 2:
            return None
        return first[0] * second[0], first[1] * second[1]


def _product(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...] | None:
    if not (len(left) == len(right) == 2 and left[1] == right[0]):
        return None
    return left[0], right[1]


def _factor(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...] | None:
    """Shape of a factor of a Kronecker product: stored whole, or as a product of two."""
    if name in shapes:
        return shapes[name]
    return _product(shapes[f"{name}_a"], shapes[f"{name}_b"])


class ModuleUpdates(NamedTuple):
    """Updates by parameter, and for every role that has no effect: why."""

    updates: dict[str, Update]
    unused: dict[str, str]


def module_updates(refs: Mapping[str, AnyRef], path: str, parameter: str, shapes: Shapes,
                   scales: Scales) -> ModuleUpdates:
    """Turn the tensors of one module into updates.

    Args:
        refs: role -> tensor, roles of `lora_names.ENDINGS`.
        path: of the module in the file, for `scales`.
        parameter: name of the module's weight.
        shapes: of the component's parameters.
        scales: what metadata say of alpha.
    """
    weight, bias = shapes[parameter], parameter.removesuffix(".weight") + ".bias"
    left, updates = dict.fromkeys(refs, ""), {}

    def use(name: str, update: Update, *roles: str) -> None:
        shape = update.delta_shape
        if shape == shapes[name]:
            updates[name] = update
            reason = ""
        elif shape is None:
            reason = f"its factors do not fit each other ({_dims(update)})"
        else:
            reason = f"changes a tensor of shape {list(shape)}, LTX-2.3 has {list(shapes[name])}"
        if reason:
            left.update(dict.fromkeys(roles, reason))
            return
        for role in roles:
            left.pop(role, None)

    alpha: AnyRef | float | None = refs.get("alpha")
    if isinstance(alpha, AnyRef) and prod(alpha.shape) != 1:
        return ModuleUpdates({}, dict.fromkeys(refs, f"its alpha has the shape {list(alpha.shape)}"))
    if _TUCKER & refs.keys():
        return ModuleUpdates({}, dict.fromkeys(refs, "a Tucker decomposition, which is for convolutions"))
    kind, roles, ranked = _kind_of(refs)
    scale: tuple[AnyRef | float | None, int, bool] = (None, 1, False)
    if ranked and refs[ranked].shape:
        if alpha is None and kind == "lora":
            alpha = scales.alpha(path)
        scale = (alpha, refs[ranked].shape[0], scales.stabilised(path))
    if kind:
        dora, magnitude, problem = "", {}, ""
        extra = ("reshape",)
        if kind in _PRODUCTS:
            dora, magnitude, problem = _dora(refs, weight)
            extra = ("alpha", "reshape", "dora_scale", "magnitude")
        if problem:
            return ModuleUpdates({}, dict.fromkeys(refs, problem))
        own = {role: refs[role] for role in roles} | magnitude
        use(parameter, Update(kind, own, *scale, dora), *roles, *extra)
    if kind == "lora" and "b_bias" in refs and bias in shapes:
        use(bias, Update("diff", {"diff": refs["b_bias"]}, *scale), "b_bias")
    elif "diff_b" in refs and bias in shapes:
        use(bias, Update("diff", {"diff": refs["diff_b"]}), "diff_b")
    unused = {}
    for role, reason in left.items():
        if role in refs:
            unused[role] = reason or _LEFT.get(role, "the tensor that belongs to it is missing")
    return ModuleUpdates(updates, unused)


def _kind_of(roles: Collection[str]) -> tuple[str, frozenset[str], str]:
    """The first row of `_KINDS` that has all it needs."""
    for row in _KINDS:
        if row[1].issubset(roles):
            return row
    return "", frozenset(), ""


def _dora(refs: Mapping[str, AnyRef], weight: tuple[int, ...]) -> tuple[str, dict[str, AnyRef], str]:
    """Convention of a magnitude, its tensor, and what is wrong with it."""
    ref = refs.get("magnitude", refs.get("dora_scale"))
    if ref is None:
        return "", {}, ""
    count = prod(ref.shape)
    if "magnitude" in refs and count == weight[0]:
        return "peft", {"magnitude": ref}, ""
    if "magnitude" not in refs and ref.shape and len(weight) == 2:
        if ref.shape[0] == weight[0] == count:
            return "output", {"magnitude": ref}, ""
        if ref.shape[-1] == weight[1] == count:
            return "input", {"magnitude": ref}, ""
    return "", {}, f"a magnitude of shape {list(ref.shape)} for a weight of {list(weight)}"


def _dims(update: Update) -> str:
    return ", ".join(f"{role} {list(ref.shape)}" for role, ref in sorted(update.tensors.items()))
