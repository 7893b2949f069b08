"""Quantising and dequantising on a GPU: bits of Triton's and torch's forms, and their rate beside that of a copy.

    .venv/bin/python -m pytest -s tests/gpu/test_quantise.py
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.measure import device_seconds, seconds
from ltx23_core.ops import pick
from ltx23_core.overlay.bytes.ggml import BLOCKS
from ltx23_core.overlay.bytes.source import QuantRef, TensorRef, tensor_bytes
from ltx23_core.overlay.weight_dtype import WEIGHT_DTYPES, quantised
from ltx23_core.weights.dequant import dequantise
from ltx23_core.weights.quantise import quantise
from ltx23_core.weights.reader import TORCH_DTYPES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROWS, COLUMNS = 16384, 4096  # the largest matrix of a block
FORMS = WEIGHT_DTYPES[1:]
CUDA = torch.device("cuda")
# At least so much of a copy's rate; what products of tiles or 6-bit codes make has its own.
LEAST = {"int8 rotated": 0.3, "int4": 0.05, "w4a8": 0.05, "awq": 0.45, "Q6_K": 0.45}


@pytest.fixture(scope="module")
def copy_rate() -> float:
    """Bytes a second, read and written together."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    rate = 2 * len(source) / seconds(lambda: target.copy_(source), repeats=9)
    print(f"\ncopy: {rate / 1e9:.0f} GB/s on {torch.cuda.get_device_name()}")
    return rate


@pytest.fixture(autouse=True)
def auto() -> Iterator[None]:
    yield
    pick.choose("auto")


def normal(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(1)
    weight = torch.randn(ROWS, COLUMNS, generator=generator, device=CUDA) * 0.02
    weight[7] = 0
    weight[9, ::13] *= 100
    return weight.to(dtype)


def ref_of(form: str) -> QuantRef:
    origin = TensorRef(Path("x"), "BF16", (ROWS, COLUMNS), 0, tensor_bytes("BF16", (ROWS, COLUMNS)))
    return quantised("transformer_blocks.0.ff.net.0.proj.weight", origin, form)


def made(ref: QuantRef, weight: Tensor) -> dict[str, Tensor]:
    parts = {name: torch.empty(part.shape, dtype=TORCH_DTYPES[part.dtype], device=weight.device)
             for name, part in ref.parts.items()}
    quantise(ref.format, weight, parts)
    return parts


def in_form(form: str, function: Callable[[], object]) -> object:
    pick.choose(form)
    assert pick.prepare() == (form == "auto")
    return function()


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("form", FORMS)
def test_quantising(form: str, copy_rate: float) -> None:
    ref, weight = ref_of(form), normal()
    ours = in_form("auto", lambda: made(ref, weight))
    torchs = in_form("torch", lambda: made(ref, weight))
    few = weight[:64].cpu()
    small = QuantRef(ref.format, (64, COLUMNS), {
        name: TensorRef(Path("x"), part.dtype, (64, *part.shape[1:]) if part.shape else (), 0, 0)
        for name, part in ref.parts.items()}, origin=ref.origin)
    cpu = in_form("torch", lambda: made(small, few))
    assert all(torch.equal(as_bytes(ours[name]), as_bytes(part)) for name, part in torchs.items())
    if form != "fp8_scaled":  # whose one scale is the whole weight's
        assert all(torch.equal(as_bytes(ours[name][:64]).cpu(), as_bytes(part)) for name, part in cpu.items())
    floor = (weight.nbytes + sum(part.nbytes for part in ours.values())) / copy_rate
    fast = in_form("auto", lambda: seconds(lambda: quantise(ref.format, weight, ours), repeats=7))
    slow = in_form("torch", lambda: seconds(lambda: quantise(ref.format, weight, ours), repeats=5))
    rate = weight.nbytes / fast / 1e9
    print(f"quantise {form:12} {fast * 1e3:7.3f} ms, torch {slow * 1e3:8.3f}, floor {floor * 1e3:.3f}: "
          f"{rate:.0f} GB/s of bf16 read")
    # It runs in the copies' own stream, so a load takes 1/54 + 1/rate seconds a GB where pages are registered.
    assert rate > 200, "at most 1.27 times as long as the copies alone"


def random_parts(name: str) -> tuple[str, dict[str, Tensor], dict[str, int]]:
    """A format, its parts for a (ROWS, COLUMNS) matrix, and parameters."""
    generator = torch.Generator(CUDA).manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=generator, device=CUDA, dtype=torch.uint8)

    def scales(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=CUDA) * 0.01 + 1e-4

    codes = random(ROWS, COLUMNS)
    if name in BLOCKS:
        values, size = BLOCKS[name]
        blocks = random(ROWS * COLUMNS // values, size)
        halves = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(name, (0,))
        for at in halves:
            blocks[:, at + 1] &= 0x3B
        return name, {"weight": blocks.view(ROWS, -1)}, {}
    if name.startswith("int8"):
        parameters = {"rotated": 256} if "rotated" in name else {}
        weight = codes.view(torch.int8).clamp(min=-127)
        return "int8", {"weight": weight, "weight_scale": scales(ROWS, 1)}, parameters
    if name == "int4":
        return "int4", {"weight": codes[:, :COLUMNS // 2].contiguous(), "weight_scale": scales(ROWS, 1)}, {
            "rotated": 256}
    if name == "w4a8":
        return "w4a8", {"weight": codes[:, :COLUMNS // 2].contiguous(), "weight_s_channel": scales(ROWS),
                        "weight_s_rel": scales(ROWS, COLUMNS // 16) * 1500}, {"group": 16, "rotated": 256}
    if name == "awq":
        shape = COLUMNS // 64, ROWS
        return "awq", {"weight": codes[:, :COLUMNS // 2].contiguous(), "weight_scale": scales(*shape).bfloat16(),
                       "weight_zero": scales(*shape).bfloat16()}, {"group": 64}
    if name == "nvfp4":
        return "nvfp4", {"weight": codes[:, :COLUMNS // 2].contiguous(), "weight_scale_2": scales(),
                         "weight_scale": (random(ROWS, COLUMNS // 16) & 0x77).view(torch.float8_e4m3fn)}, {}
    numbers = (codes & 0xF7).view(torch.float8_e4m3fn)  # no NaN
    if name == "mxfp8":
        return "mxfp8", {"weight": numbers, "weight_scale": random(ROWS, COLUMNS // 32) // 8 + 100}, {}
    return "fp8", {"weight": numbers, "weight_scale": scales(ROWS, 1) if name == "fp8 rows" else scales()}, {}


@pytest.mark.parametrize("name", ["fp8", "fp8 rows", "int8", "int8 rotated", "int4", "w4a8", "awq", "nvfp4", "mxfp8",
                                  "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_dequantising(name: str, copy_rate: float) -> None:
    format, parts, parameters = random_parts(name)
    shape, place = (ROWS, COLUMNS), torch.empty(ROWS, COLUMNS, dtype=torch.bfloat16, device=CUDA)

    def numbers() -> Tensor:
        return dequantise(format, parts, parameters, shape, torch.bfloat16, place)

    want = in_form("torch", numbers).clone()
    slow = in_form("torch", lambda: seconds(numbers, repeats=5))
    place.zero_()
    got = in_form("auto", numbers)
    assert pick.kernels("dequant", parts["weight"]).fits(format, parts, parameters)
    assert want.isfinite().all()
    assert torch.equal(got.view(torch.int16), want.view(torch.int16))
    fast = device_seconds(numbers)
    floor = (place.nbytes + sum(part.nbytes for part in parts.values())) / copy_rate
    print(f"dequantise {name:12} {fast * 1e3:7.3f} ms, torch {slow * 1e3:8.3f}, floor {floor * 1e3:.3f} "
          f"({floor / fast:.2f} of a copy's rate)")
    assert floor / fast > LEAST.get(name, 0.6)
