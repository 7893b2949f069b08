"""Tanh GELU of a product: as its epilogue where the library has one, else in place (spec/02 §7)."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from .codes import Coded, quantise
from .pick import kernels, way


def linear_gelu(x: Tensor | Coded, layer: nn.Module, codes: torch.dtype | None = None) -> Tensor | Coded:
    """gelu(layer(x)), tanh form.

    Relative L2 to float64 on random data: float32 3e-7 in all forms (CPU, `tests/unit/ops/test_ops.py`); bfloat16
    2.7e-3 with a product rounded before the GELU, 1.7e-3 with an epilogue (H100, `bench ops`: 1.26 against 1.30 ms for
    6,144 tokens of the 22B model, 6.43 against 7.27 for 32,640).

    Args:
        x: (…, in).
        layer: an `nn.Linear`, or what stands in its place (quantised, with LoRAs beside its weight).
        codes: a dtype: the result is wanted as such codes (`ops.codes`).

    Returns:
        (…, out).
    """
    if codes is not None:
        y = layer(x)
        module = kernels("codes", y)
        if module is not None:
            return Coded(*module.quantise(y, codes, gelu=True))
        return quantise(gelu(y, approximate="tanh"), codes)
    own = hasattr(layer, "numbers")  # a quantised layer: the same bytes as with its numbers as the weight
    plain = own or type(layer) is nn.Linear or not getattr(layer, "acts", True)  # LoRAs at strength 0 are not seen
    if plain and not getattr(layer, "direct", False) and _has_epilogue(x, layer):
        weight = layer.numbers() if own else layer.weight
        flat = torch._addmm_activation(layer.bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return flat.view(*x.shape[:-1], -1)
    y = layer(x)
    module = kernels("gelu", y)
    return gelu(y, approximate="tanh") if module is None else module.gelu_tanh_(y)


def _has_epilogue(x: Tensor, layer: nn.Linear) -> bool:
    """cuBLASLt's epilogue is the tanh form; the CPU's is the other one, and torch takes it without being asked."""
    return (x.is_cuda and way("gelu") == "epilogue" and torch.version.cuda is not None and layer.bias is not None
            and x.dtype in (torch.bfloat16, torch.float16) and not (torch.is_grad_enabled() and x.requires_grad))
