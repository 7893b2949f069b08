"""Residual sum, RMS norm and modulation in one pass over the tokens (spec/02 §3, §7).

Modulation rows belong to timesteps, of which a stream has one to a few; tokens have an index into them, so a row is
never written out per token.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from .codes import Coded, coded, wanted_as
from .pick import kernels


class Modulation(NamedTuple):
    """Rows of one part of a block, each (B, U, W) over U distinct timesteps.

    Attributes:
        shift: is added.
        scale: multiplies; the 1 of 1 + scale is in it.
        gate: multiplies what the part adds to the stream; None where it comes from elsewhere.
        codes: a dtype: the part takes its input as such codes (`ops.codes`).
    """

    shift: Tensor
    scale: Tensor
    gate: Tensor | None = None
    codes: torch.dtype | None = None


class Update(NamedTuple):
    """What a part adds to its stream: value (B, N, W) times gate (B, U or 1, W)."""

    value: Tensor
    gate: Tensor


def per_token(row: Tensor, index: Tensor | None) -> Tensor:
    """A row (B, U, W) as it multiplies tokens: (B, 1 or N, W). ``index``: int64 (N,), None where U is 1 or N."""
    if index is None or row.shape[1] == 1:
        return row
    return row[:, index]


def modulated(x: Tensor, rows: Modulation, index: Tensor | None = None) -> Tensor | Coded:
    """x scale + shift, (B, N, W)."""
    made = torch.addcmul(per_token(rows.shift, index), x, per_token(rows.scale, index))
    return wanted_as(made, rows.codes)


def add_norm_modulate(x: Tensor, update: Update | None, wanted: Sequence[Modulation], index: Tensor | None,
                      eps: float) -> tuple[Tensor, list[Tensor | Coded]]:
    """The stream after an update, and its norm under each of the wanted modulations.

    x' = x + value gate, rounded to x's dtype; rms(x') scale + shift for each wanted part. Relative L2 to float64 on
    random data, W = 4096: float32 2e-7 in both forms; bfloat16 2.4e-3 (norm and product rounded) in the torch form,
    1.7e-3 in Triton's (CPU, `tests/unit/ops/test_ops.py`). On an H100 the forms differ by 1.5e-3, and 32,640 tokens
    take 1.05 ms and 0.51 (`bench ops`; two outputs: 1.7e-3, 1.83 and 0.61).

    Args:
        x: (B, N, W); never changed in place.
        update: None: x stays.
        wanted: none to two parts.
        index: int64 (N,), which of a row's U timesteps each token has; None where U is 1 or N.
        eps: of the norm.

    Returns:
        x' (B, N, W) and one (B, N, W) for each wanted part, in x's dtype or as codes.
    """
    module = kernels("modulate", x)
    outs: list[Tensor | Coded] = []
    if module is not None:
        x, made = module.add_norm_modulate(x, update, wanted, index, eps)
        for rows, steps in made:
            outs.append(coded(rows, steps))
        return x, outs
    if update is not None:
        x = torch.addcmul(x, update.value, per_token(update.gate, index))
    if not wanted:
        return x, []
    normed = rms_norm(x, x.shape[-1:], None, eps)
    for rows in wanted:
        outs.append(modulated(normed, rows, index))
    return x, outs
