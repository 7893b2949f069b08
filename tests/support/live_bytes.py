"""How many bytes of tensors are alive at most while something runs, counted on the meta device: nothing is computed."""
from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltx23_core.models.transformer import attention as attention_module
from ltx23_core.models.transformer import model as model_module
from ltx23_core.models.transformer.model import Transformer
from ltx23_core.ops import gates, gelu, modulate, norms
from ltx23_core.ops.rope import RopeRows

POSITIONS = 110  # on all axes, of 1920x1088x121


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, until the last tensor over each is gone.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), given)
        return made

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in given:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _update(x: Tensor, update: modulate.Update | None, wanted: Sequence[modulate.Modulation], index: Tensor | None,
            eps: float) -> tuple[Tensor, list[tuple[Tensor, None]]]:
    return x if update is None else torch.empty_like(x), [(torch.empty_like(x), None) for _ in wanted]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.empty_like(query)  # as fused kernels do: nothing of the size queries times keys


def _linears(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    outs = [layer.out_features for layer in layers]
    return list(x.new_empty(*x.shape[:-1], sum(outs)).split(outs, dim=-1))


def _rope_rows(middles: Tensor, width: int, max_pos: tuple[float, ...], theta: float, dtype: torch.dtype) -> RopeRows:
    table = torch.empty(POSITIONS, width // 2, dtype=dtype, device="meta")
    return RopeRows(table, torch.empty_like(table), torch.empty(middles.shape, dtype=torch.int32, device="meta"))


def _set_aside(device: torch.device, sizes: Sequence[int]) -> None:
    held = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
    del held


def like_a_device(model: Transformer, monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    """Let a model on the meta device allocate what it does on a GPU.

    Args:
        model: the model.
        monkeypatch: of the test.
        fused: with Triton's kernels, which allocate their results only; else the torch forms.
    """
    model.set_attention(_attend)
    monkeypatch.setattr(attention_module, "linears", _linears)  # whose weights lie together
    if not fused:
        return
    found = {
        "modulate": SimpleNamespace(add_norm_modulate=_update),
        "norms": SimpleNamespace(fits=lambda *_: True, norm_rope=lambda parts, *_: [x for x, _ in parts]),
        "gates": SimpleNamespace(fits=lambda *_: True, gate_heads=lambda attended, *_: (attended.flatten(2), None)),
        "gelu": SimpleNamespace(gelu_tanh_=lambda y: y),
    }
    for module in (modulate, norms, gates, gelu, model_module):
        monkeypatch.setattr(module, "kernels", lambda name, x: found[name])
    monkeypatch.setattr(model_module, "rope_rows", _rope_rows)
    monkeypatch.setattr(model_module, "set_aside", _set_aside)
