"""ggml blocks in torch against the numpy reference of the gguf package, bit for bit."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from ltx23_core.ops import pick
from ltx23_core.overlay.bytes.ggml import BLOCKS, READABLE, TYPES
from ltx23_core.weights.dequant import dequantise as numbers
from ltx23_core.weights.ggml import DECODERS, dequantise
from tests.support.gguf import gguf, random_blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def test_table_is_that_of_the_gguf_package() -> None:
    sizes = {kind.name: (int(kind), *map(int, size)) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {name: (number, values, size) for number, (name, values, size) in TYPES.items()}
    both = sizes.keys() & ours.keys()
    assert len(both) >= 30 and {k: sizes[k] for k in both} == {k: ours[k] for k in both}
    assert set(READABLE) == set(DECODERS)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("kind", READABLE)
def test_bit_equal_to_the_reference(kind: str, device: str) -> None:
    raw = random_blocks(kind, 24, 5 * BLOCKS[kind][0])
    want = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    got = dequantise(torch.from_numpy(raw).to(device), kind, torch.float32)
    assert got.shape == want.shape and np.isfinite(want).all() and len(np.unique(want)) > 500
    assert np.array_equal(got.cpu().numpy(), want)
    half = dequantise(torch.from_numpy(raw).to(device), kind, torch.bfloat16)
    assert torch.equal(half.cpu(), torch.from_numpy(want).bfloat16())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_leading_dimensions_stay(kind: str) -> None:
    raw = torch.from_numpy(random_blocks(kind, 6, 2 * BLOCKS[kind][0])).view(2, 3, -1)
    got = dequantise(raw, kind, torch.float16)
    assert got.shape == (2, 3, 2 * BLOCKS[kind][0]) and got.dtype == torch.float16
    assert torch.equal(got[1, 2], dequantise(raw[1, 2], kind, torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_kernels_give_the_same_bits(kind: str, dtype: torch.dtype, triton_form: None) -> None:
    """Random bytes: every code, scale and least, also of float16 0 and -0."""
    raw = torch.from_numpy(random_blocks(kind, 24, 5 * BLOCKS[kind][0], seed=7, exponent=0xBB))
    raw[0].zero_()
    want = dequantise(raw, kind, dtype)
    raw = raw.to(DEVICE)
    assert pick.kernels("dequant", raw).fits(kind, {"weight": raw}, {})
    got = numbers(kind, {"weight": raw}, {}, tuple(want.shape), dtype)
    assert torch.equal(got.cpu().view(torch.uint8), want.view(torch.uint8))
    place = torch.empty(want.shape, dtype=dtype, device=DEVICE)
    assert numbers(kind, {"weight": raw}, {}, tuple(want.shape), dtype, place) is place
    assert torch.equal(place, got)
