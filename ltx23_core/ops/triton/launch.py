"""Launching kernels, also while a recording owns its memory (`ops.record.tied`).

There the memory of a recording is no memory yet, and Triton refuses addresses that the driver does not know ("cannot
be accessed from Triton"). A kernel that was compiled before takes bare addresses, which nobody asks the driver about.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..record import tied

ALIGNMENT = 16  # bytes; Triton compiles one kernel for addresses that are multiples of it, and another for all


class Launcher:
    """A kernel whose arguments are tensors, then numbers, then constants.

    Args:
        kernel: of ``triton.jit``.
    """

    def __init__(self, kernel: Any) -> None:  # noqa: ANN401  Triton's class, or its interpreter's
        self._kernel = kernel
        self._compiled: dict[object, Any] = {}

    def __call__(self, grid: tuple[int, int], tensors: Sequence[Tensor], numbers: tuple[float, ...],
                 constants: tuple[object, ...], warps: int) -> None:
        """Run it.

        Args:
            grid: programs on two axes.
            tensors: on one GPU, or of the interpreter.
            numbers: integers and floats.
            constants: values of its ``tl.constexpr`` parameters.
            warps: of a program.
        """
        if torch.compiler.is_compiling() or not tensors[0].is_cuda or not tied():
            self._kernel[grid](*tensors, *numbers, *constants, num_warps=warps)
            return
        addresses = [tensor.data_ptr() for tensor in tensors]
        kinds = tuple([(tensor.dtype, at % ALIGNMENT == 0) for tensor, at in zip(tensors, addresses, strict=True)])
        key = tensors[0].device.index, kinds, numbers, constants, warps
        if not torch.cuda.is_current_stream_capturing():
            self._compiled[key] = self._kernel[grid](*tensors, *numbers, *constants, num_warps=warps)
            return
        compiled = self._compiled.get(key)
        if compiled is None:
            raise RuntimeError("a kernel that did not run before the recording")
        compiled[grid[0], grid[1], 1](*addresses, *numbers, *constants)
