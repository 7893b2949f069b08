"""The order of number formats by exactness, measured: what a choice says of it must be true."""
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import gguf
import pytest
import torch
from torch import Tensor

from ltx23_core.overlay.shelf.score import EXACT
from tests.support import quantisers

OUTLIERS = 1e-4  # part of the weights that is six times as large, as in real layers
EQUAL = 1.01  # fp8 scaled and MXFP8 change places with the seed


def official(seed: int) -> Tensor:
    """Numbers as a layer of the official file has them: bf16, normal, few outliers."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(512, 1024, generator=generator) * 0.02
    chance = torch.rand(weight.shape, generator=generator)
    weight[chance < OUTLIERS] *= 6
    return weight.bfloat16().float()


def quantised(quantiser: quantisers.Quantiser) -> Callable[[Tensor], Tensor]:
    """What the numbers become in a packed format."""
    return lambda weight: quantiser(weight)[1]


def ggml(name: str) -> Callable[[Tensor], Tensor]:
    """What the numbers become in a GGUF type that gguf-py can write."""
    kind = gguf.GGMLQuantizationType[name]

    def through(weight: Tensor) -> Tensor:
        blocks = gguf.quants.quantize(weight.numpy(), kind)
        return torch.from_numpy(gguf.quants.dequantize(blocks, kind))

    return through


MEASURED: dict[str, Callable[[Tensor], Tensor]] = {
    "bf16": Tensor.bfloat16,
    "fp16": Tensor.half,
    "GGUF Q8_0": ggml("Q8_0"),
    "int8": quantised(quantisers.int8()),
    "fp8 scaled": quantised(quantisers.fp8()),
    "MXFP8": quantised(quantisers.mxfp8),
    "fp8 e4m3": quantised(quantisers.cast),
    "GGUF Q5_1": ggml("Q5_1"),
    "GGUF Q5_0": ggml("Q5_0"),
    "fp8 e5m2": quantised(quantisers.fp8(torch.float8_e5m2)),
    "GGUF Q4_1": ggml("Q4_1"),
    "GGUF Q4_0": ggml("Q4_0"),
    "NVFP4": quantised(quantisers.nvfp4),
    "int4 ConvRot": quantised(quantisers.int4(256)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_is_that_of_the_measured_errors(seed: int) -> None:
    weight = official(seed)
    errors = {}
    for name, through in MEASURED.items():
        difference = through(weight).float() - weight
        errors[name] = float(difference.norm() / weight.norm())
    print({name: f"{error:.2%}" for name, error in errors.items()})
    for better, worse in pairwise(sorted(errors, key=EXACT.index)):
        assert errors[better] <= EQUAL * errors[worse], (better, worse)
