"""Arithmetic below bfloat16: which models multiply 8-bit codes, how their layers are told; lossy, off by default."""
from __future__ import annotations

import hashlib
from dataclasses import replace
from math import prod

import torch

from .errors import RequestError
from .ops.codes import FP8, INT8, check_codes
from .overlay.bytes.source import AnyRef
from .overlay.manifest import Overlay
from .overlay.packed.sizes import as_quantised
from .overlay.weight_dtype import AS_STORED, quantised_forms, with_weight_dtype

DEFAULT = "default"
MATMUL_DTYPES = (DEFAULT, "fp8", "int8")
_CODES = {"fp8": FP8, "int8": INT8}
_STORED = {"fp8": "F8_E4M3", "int8": "I8"}
# What plain weights become while they are read: with a scale for each row.
_WEIGHTS = {"fp8": "fp8_e4m3fn", "int8": "int8"}


def with_dtypes(overlay: Overlay, weight_dtype: str, matmul_dtype: str, device: torch.device) -> Overlay:
    """The same model with weights and arithmetic of some dtypes; nothing is read here.

    Args:
        overlay: the model.
        weight_dtype: as of `overlay.weight_dtype.with_weight_dtype`.
        matmul_dtype: "default": products of numbers. "fp8", "int8": the large products of the transformer's blocks
            multiply codes with a scale for each row (`ops.codes`); plain weights become such codes while they are read.
        device: where it will run.

    Returns:
        An overlay with an id of its own where its results are others.

    Raises:
        RequestError: no such name, not on this device, or weights that are not such codes.
    """
    if matmul_dtype not in MATMUL_DTYPES:
        raise RequestError(f"matmul_dtype is {matmul_dtype!r}", f"one of {', '.join(MATMUL_DTYPES)}",
                           f"Choose {DEFAULT}.")
    if matmul_dtype == DEFAULT or "transformer" not in overlay.components:
        return with_weight_dtype(overlay, weight_dtype)
    check_codes(_CODES[matmul_dtype], device)
    stored = quantised_forms(overlay.components["transformer"].tensors)
    if not stored:
        if weight_dtype == AS_STORED:
            weight_dtype = _WEIGHTS[matmul_dtype]
        overlay = with_weight_dtype(overlay, weight_dtype)
        stored = quantised_forms(overlay.components["transformer"].tensors)
    if not any(_has_codes(ref, matmul_dtype) for ref in overlay.components["transformer"].tensors.values()):
        raise RequestError(f"matmul_dtype {matmul_dtype} with weights in {', '.join(stored)}",
                           f"weights in bf16, or in {matmul_dtype} with a scale for each row or matrix",
                           f"Choose matmul_dtype {DEFAULT}, or other weights.")
    identity = hashlib.sha256(f"{overlay.id} matmul {matmul_dtype}".encode()).hexdigest()
    return replace(overlay, id=identity)


def _has_codes(ref: AnyRef, matmul_dtype: str) -> bool:
    """Whether a weight is codes with a scale for each row, or one."""
    found = as_quantised(ref)
    if found is None or found.format != matmul_dtype or found.parameters.get("rotated"):
        return False
    scale = found.parts.get("weight_scale")
    squares = scale is not None and prod(scale.shape) not in (1, found.shape[0])
    return found.parts["weight"].dtype == _STORED[matmul_dtype] and not squares
