"""Ranges of files as ordinary CPU tensors: mapped, so that no byte is read before somebody looks at it.

What a loader copies into its own memory is in RAM once, and what it only keeps is the page cache, as with the
safetensors library. Weights that must be computed (GGUF) are made when they are copied, one at a time.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..overlay.bytes.source import TensorRef
from ..weights.reader import TORCH_DTYPES


class MappedFiles:
    """Files in memory as the system maps them: private, so that whoever writes into a tensor changes no file.

    A mapping lives as long as the last tensor that is made of it.
    """

    def __init__(self) -> None:
        """Map nothing yet."""
        self._storages: dict[Path, torch.UntypedStorage] = {}

    def tensor(self, ref: TensorRef) -> Tensor:
        """One tensor as it stands in its file.

        Raises:
            WeightsError: the file cannot be mapped, or is of a dtype that torch does not have.
            OverlayError: it changed after the overlay was made.
        """
        dtype = TORCH_DTYPES.get(ref.dtype)
        if dtype is None:
            raise WeightsError(f"a tensor of {ref.path} has dtype {ref.dtype}", f"one of {', '.join(TORCH_DTYPES)}",
                               "Use another file of this model.")
        if ref.start == ref.end:
            return torch.empty(ref.shape, dtype=dtype)
        data = torch.empty(0, dtype=torch.uint8).set_(self._storage(ref), ref.start, (ref.size_bytes,))
        if ref.start % dtype.itemsize:  # an old file whose header has an odd length: no view can begin there
            data = data.clone()
        return data.view(dtype).view(ref.shape)

    def _storage(self, ref: TensorRef) -> torch.UntypedStorage:
        if ref.path not in self._storages:
            try:
                info = os.stat(ref.path)
                if ref.source is not None:
                    ref.source.check_stat(info)
                storage = torch.UntypedStorage.from_file(str(ref.path), shared=False, nbytes=info.st_size)
            except (OSError, RuntimeError) as error:
                why = " ".join(str(error).split())[:200]
                raise WeightsError(f"{ref.path} cannot be mapped ({why})", "a file on a disk that the system can map",
                                   "Check the disk and the path.") from error
            self._storages[ref.path] = storage
        return self._storages[ref.path]


class Made(Tensor):
    """A tensor whose numbers are made when an operation asks for them, and not kept.

    It has shape, dtype and device (CPU) at once, which is what loaders look at before they copy. Any operation gets the
    numbers instead.
    """

    _make: Callable[[], Tensor]

    @staticmethod
    def __new__(cls: type[Made], shape: tuple[int, ...], dtype: torch.dtype, make: Callable[[], Tensor]) -> Made:
        """Nothing is made yet.

        Args:
            cls: this class.
            shape, dtype: of what `make` will give.
            make: gives the numbers; called once for each operation.
        """
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        made._make = make
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        """Without the numbers, which would have to be made."""
        return f"Made({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (),  # noqa: ANN401 (torch's own)
                           kwargs: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Run any operation on the numbers."""
        args, kwargs = torch.utils._pytree.tree_map_only(cls, _numbers, (args, kwargs or {}))
        return func(*args, **kwargs)


def _numbers(tensor: Made) -> Tensor:
    return tensor._make()
