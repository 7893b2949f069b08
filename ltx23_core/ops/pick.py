"""Which form of an operation runs: Triton's where it works, the torch form everywhere else.

``LTX23_KERNELS=torch`` keeps to the torch forms. ``triton`` takes Triton's for tensors on any device, which is what
Triton's interpreter needs (``TRITON_INTERPRET=1``, for tests without a GPU).
"""
from __future__ import annotations

import logging
import os
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

NAMES = ("norms", "modulate", "gates", "gelu", "dequant")
CHOICES = ("auto", "triton", "torch")

_log = logging.getLogger("ltx23")
_found: dict[str, ModuleType] = {}
_state = {"choice": os.environ.get("LTX23_KERNELS", "auto"), "ready": False}


def choose(name: str) -> None:
    """Take one form from now on: "auto", "triton" or "torch"."""
    assert name in CHOICES, name
    _state.update(choice=name, ready=False)


def chosen() -> str:
    """What `choose` was told last."""
    return _state["choice"]


def prepare() -> bool:
    """Import the kernels and try one, once; whether they work. `torch.compile` needs this done before it traces.

    Triton builds a small launcher with the system's C compiler at first use, so that importing it proves nothing.
    """
    if _state["ready"]:
        return bool(_found)
    _state["ready"] = True
    _found.clear()
    if _state["choice"] == "torch" or (_state["choice"] == "auto" and not torch.cuda.is_available()):
        return False
    try:
        modules: dict[str, ModuleType] = {}
        for name in NAMES:
            modules[name] = import_module(f".triton.{name}", __package__)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.tensor([[0.0, 1.0, -1.0, 2.0]], device=device)
        want = torch.nn.functional.gelu(x, approximate="tanh")
        if not torch.allclose(modules["gelu"].gelu_tanh_(x.clone()), want, atol=1e-5):
            raise RuntimeError("the trial kernel's result is wrong")
    except Exception as error:  # whatever a compiler can raise: the torch form gives the same result
        _log.info("kernels: the torch forms, because Triton does not work here (%s: %s)",
                  type(error).__name__, " ".join(str(error).split())[:200])
        return False
    _found.update(modules)
    return True


def kernels(name: str, x: Tensor) -> ModuleType | None:
    """The module with Triton's form of an operation for a tensor, or None: use the torch form.

    Args:
        name: one of `NAMES`.
        x: what it works on. Kernels have no backward pass and compute in float32.
    """
    if not _state["ready"]:
        prepare()
    if not _found or x.dtype == torch.float64 or (torch.is_grad_enabled() and x.requires_grad):
        return None
    if not x.is_cuda and _state["choice"] != "triton":
        return None
    return _found[name]
