"""A call that does not fit after all is made once more, with fewer of its weights on the device."""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..memory.room import freeing, gb
from .component import Component
from .policy import policy_for

log = logging.getLogger("ltx23")

LESS = 0.25  # of the activations that were planned: what the second plan leaves free beside them
LEAST = 256 << 20  # bytes


def shrink(component: Component, activation_bytes: int) -> bool:
    """Give blocks of a component back, for activations that take more than was planned; False where none is left.

    Args:
        component: on its device.
        activation_bytes: as planned.
    """
    placed = freeing(component.need(), component.streamed, max(LEAST, LESS * activation_bytes))
    if placed is None:
        return False
    log.warning("Activations need more than the planned %s: one more try with %s %s.", gb(activation_bytes),
                component.name.replace("_", " "), placed.text)
    torch.cuda.empty_cache()
    component.place(policy_for(placed), component.device)
    return True


class SecondTry:
    """Calls a module; should the device's memory not do, once more after ``shrink``. All else is the module's.

    Only for calls that change nothing but what they return.

    Args:
        module: what is called.
        shrink: makes room; False: there is none to make.
        refused: the error to raise where it does not fit even so.
    """

    def __init__(self, module: nn.Module, shrink: Callable[[], bool], refused: Callable[[], Exception]) -> None:
        self._module, self._shrink, self._refused = module, shrink, refused

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._module, name)

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """The module's result.

        Raises:
            OutOfMemoryError: not even the second plan fits.
        """
        try:
            return self._module(*args, **options)
        except torch.cuda.OutOfMemoryError:
            pass  # the error's frames hold the activations: it must be gone before the next try
        if not self._shrink():
            raise self._refused()
        try:
            return self._module(*args, **options)
        except torch.cuda.OutOfMemoryError as error:
            raise self._refused() from error
