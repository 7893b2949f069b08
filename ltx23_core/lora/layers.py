"""Layers that apply LoRAs when they are used. Parameter names stay the official ones; factors are buffers."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from .apply import Change


class ChangedLayer(nn.Module):
    """A layer with LoRA updates. Their tensors are non-persistent buffers: they move and leave with the module."""

    _changes: tuple[tuple[Change, tuple[str, ...]], ...] = ()  # each without its tensors, and the names of these

    def set_changes(self, changes: Sequence[Change]) -> None:
        """The LoRA updates of the layer's weight, from now on."""
        for i, (_, roles) in enumerate(self._changes):
            for role in roles:
                delattr(self, f"lora_{i}_{role}")
        kept = []
        for i, change in enumerate(changes):
            for role, tensor in change.tensors.items():
                self.register_buffer(f"lora_{i}_{role}", tensor, persistent=False)
            kept.append((replace(change, tensors={}), tuple(change.tensors)))
        self._changes = tuple(kept)

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """New strengths of the same updates, one each: no tensor is touched."""
        changed = []
        for (change, roles), strength in zip(self._changes, strengths, strict=True):
            changed.append((replace(change, strength=strength), roles))
        self._changes = tuple(changed)

    def changes(self) -> list[Change]:
        """The LoRA updates, with their tensors where the module is."""
        found = []
        for i, (change, roles) in enumerate(self._changes):
            tensors = {role: getattr(self, f"lora_{i}_{role}") for role in roles}
            found.append(replace(change, tensors=tensors))
        return found


class LoraLinear(ChangedLayer, nn.Linear):
    """y = W x + b + Σ strength · scale · B (A x), for plain pairs; shares weight and bias with the layer it replaces.

    The products are those of the layer's dtype: B (A x) is accumulated in the matmul's float32 and added to the
    rounded W x with one rounding. Updates of strength 0 are left out, so the output is then that of the base.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("weight", linear.weight)
        self.register_parameter("bias", linear.bias)
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.added(x, functional.linear(x, self.weight, self.bias))

    @property
    def acts(self) -> bool:
        """Whether any update changes the output."""
        return any(change.strength for change, _ in self._changes)

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """y = W x + b, made by whoever (`ops.matmul.linears`: several layers at once), with the updates; in place."""
        for i, (change, _) in enumerate(self._changes):
            if change.strength:
                low = functional.linear(x, getattr(self, f"lora_{i}_a"))
                flat = y.flatten(0, -2).addmm_(low.flatten(0, -2), getattr(self, f"lora_{i}_b").t(),
                                               alpha=change.strength * change.scale)
                y = flat.view(y.shape)
        return y

    def plain(self) -> nn.Linear:
        """The ordinary layer with the same weight and bias."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)


def set_layer_changes(module: nn.Module, name: str, changes: Sequence[Change]) -> None:
    """Give the layer of a weight its LoRA updates; a Linear becomes a `LoraLinear` for as long as it has some.

    Args:
        module: that has the layer.
        name: of the weight, ``<layer>.weight``.
        changes: the updates; for a Linear plain ones.
    """
    path = name.removesuffix(".weight")
    layer = module.get_submodule(path)
    if not isinstance(layer, ChangedLayer):
        if not changes:
            return
        layer = _put(module, path, LoraLinear(layer))
    layer.set_changes(changes)
    if not changes and isinstance(layer, LoraLinear):
        _put(module, path, layer.plain())


def _put(module: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    parent, _, last = path.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
    return layer


def linear_weights(module: nn.Module) -> set[str]:
    """Names of the weights of all ordinary Linear layers."""
    found = set()
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            found.add(_weight(path))
    return found


def _weight(path: str) -> str:
    if not path:
        return "weight"
    return f"{path}.weight"


def set_all_changes(module: nn.Module, changes: dict[str, Sequence[Change]]) -> None:
    """The LoRA updates of all layers: weight -> updates; layers that are not named have none."""
    for path, layer in list(module.named_modules()):
        name = _weight(path)
        if isinstance(layer, ChangedLayer) and name not in changes:
            set_layer_changes(module, name, ())
    for name, own in changes.items():
        set_layer_changes(module, name, own)


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name, as a tensor that may be changed in place."""
    path, _, last = name.rpartition(".")
    value = getattr(module.get_submodule(path), last)
    if isinstance(value, nn.Parameter):
        return value.data
    return value


def put_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a parameter or buffer new values of the same dtype and device, where it lies: it may be a view."""
    tensor_of(module, name).copy_(tensor)
