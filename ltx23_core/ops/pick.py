"""Which form of an operation runs: Triton's where it works, the torch form everywhere else.

``LTX23_KERNELS=torch`` keeps to the torch forms. ``triton`` takes Triton's for tensors on any device, which is what
Triton's interpreter needs (``TRITON_INTERPRET=1``, for tests without a GPU).

Beside forms there are *ways*, equal up to rounding, of which a device decides; the first is the default, and `bench
transformer` compares them. The choice is one of a table and not made anew by measuring in every process: the same seed
must give the same bytes. ``LTX23_WAYS=gates=apart,gelu=kernel`` asks for others.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

NAMES = ("norms", "modulate", "gates", "gelu", "codes", "dequant", "quantise")
CHOICES = ("auto", "triton", "torch")

# gates: logits of an attention's heads in one product with its queries, or apart. 32 columns more than a multiple of
#   a tile's 256 cost a column of tiles: at 6,144 tokens 7 waves of an H100's processors instead of 6, 4 instead of 3.
# gelu: the library's epilogue, or a kernel in place behind the product.
# sound: on a second stream where forwards are recorded, or always.
WAYS = {"gates": ("together", "apart"), "gelu": ("epilogue", "kernel"), "sound": ("recorded", "always")}

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
        name: one of `NAMES`; None for any other.
        x: what it works on. Kernels have no backward pass and compute in float32.
    """
    if not _state["ready"]:
        prepare()
    if not _found or x.dtype == torch.float64 or (torch.is_grad_enabled() and x.requires_grad):
        return None
    if not x.is_cuda and _state["choice"] != "triton":
        return None
    return _found.get(name)


def _asked() -> dict[str, str]:
    """Ways that the environment names."""
    found: dict[str, str] = {}
    for part in os.environ.get("LTX23_WAYS", "").split(","):
        name, _, value = part.partition("=")
        if value in WAYS.get(name, ()):
            found[name] = value
    return found


_ways = _asked()


def way(name: str) -> str:
    """The way that is taken, of `WAYS`."""
    return _ways.get(name, WAYS[name][0])


@contextmanager
def taking(**ways: str) -> Iterator[None]:
    """Other ways inside; for measuring and tests."""
    before = dict(_ways)
    _ways.update(ways)
    try:
        yield
    finally:
        _ways.clear()
        _ways.update(before)
