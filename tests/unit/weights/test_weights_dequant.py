"""Every quantised format against a slow computation of spec/09 §2 on single numbers, in float32 bit for bit."""
from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ltx23_core.ops import pick
from ltx23_core.weights import dequant
from ltx23_core.weights.dequant import FORMATS, dequantise, hadamard, needed

Numbers = list[list[np.float32]]
f32 = np.float32


def e4m3(byte: int) -> float:
    """OCP fp8 e4m3 by its definition."""
    sign, exponent, mantissa = -1 if byte & 128 else 1, byte >> 3 & 15, byte & 7
    return sign * (mantissa * 2.0 ** -9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


def e5m2(byte: int) -> float:
    """OCP fp8 e5m2 by its definition."""
    sign, exponent, mantissa = -1 if byte & 128 else 1, byte >> 2 & 31, byte & 3
    return sign * (mantissa * 2.0 ** -16 if exponent == 0 else (4 + mantissa) * 2.0 ** (exponent - 17))


def swizzled(row: int, column: int, columns: int) -> int:
    """§2.6.1: where a block's scale lies in the flat buffer."""
    across = -(-columns // 4)
    return (((row // 128) * across + column // 4) * 512 + (row % 32) * 16 + ((row % 128) // 32) * 4 + column % 4)


def h(size: int, i: int, j: int) -> int:
    """§2.7: the sign of an element of the Kronecker power of H4."""
    h4 = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))
    sign = 1
    while size > 1:
        sign, size, i, j = sign * h4[i % 4][j % 4], size // 4, i // 4, j // 4
    return sign


def rand_bytes(r: random.Random, rows: int, columns: int, allowed: Callable[[int], bool] = lambda b: True) -> list:
    values = [b for b in range(256) if allowed(b)]
    return [[r.choice(values) for _ in range(columns)] for _ in range(rows)]


def u8(rows: list) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def floats(r: random.Random, *shape: int) -> torch.Tensor:
    return torch.tensor([r.uniform(0.001, 2) for _ in range(math.prod(shape))], dtype=torch.float32).reshape(shape)


def finite(byte: int) -> bool:
    return byte & 127 != 127


def case_fp8(r: random.Random, rows: bool = False, kind: str = "e4m3") -> tuple:
    codes = rand_bytes(r, 7, 10, finite if kind == "e4m3" else lambda b: b & 124 != 124)
    decode, dtype = (e4m3, torch.float8_e4m3fn) if kind == "e4m3" else (e5m2, torch.float8_e5m2)
    scale = floats(r, 7, 1) if rows else floats(r)
    want = [[f32(decode(code)) * f32(scale.reshape(-1)[n if rows else 0].item()) for code in row]
            for n, row in enumerate(codes)]
    return "fp8", {"weight": u8(codes).view(dtype), "weight_scale": scale}, {}, want


def case_fp8_squares(r: random.Random, rows: int = 200, columns: int = 300) -> tuple:
    codes, scale = rand_bytes(r, rows, columns, finite), floats(r, -(-rows // 128), -(-columns // 128))
    want = [[f32(e4m3(codes[i][j])) * f32(scale[i // 128, j // 128].item()) for j in range(columns)]
            for i in range(rows)]
    return "fp8", {"weight": u8(codes).view(torch.float8_e4m3fn), "weight_scale": scale}, {}, want


def case_mxfp8(r: random.Random) -> tuple:
    n, k, shape = 160, 192, (150, 170)
    codes = rand_bytes(r, n, k, finite)
    flat = [0 if r.random() < 0.05 else r.randint(100, 150) for _ in range(256 * 8)]
    want = [[f32(e4m3(codes[i][j]) * (2.0 ** (e - 127) if (e := flat[swizzled(i, j // 32, 6)]) else 0.0))
             for j in range(shape[1])] for i in range(shape[0])]
    return "mxfp8", {"weight": u8(codes).view(torch.float8_e4m3fn), "weight_scale": u8(flat).reshape(256, 8)}, {}, want


def case_nvfp4(r: random.Random) -> tuple:
    n, k, shape = 144, 96, (133, 90)
    packed, flat = rand_bytes(r, n, k // 2), rand_bytes(r, 1, 256 * 8, lambda b: b < 127)[0]
    whole = floats(r)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

    def number(i: int, j: int) -> np.float32:
        code = packed[i][j // 2] >> (0 if j % 2 else 4) & 15
        signed = values[code & 7] * (-1 if code & 8 else 1)
        return f32(signed) * f32(e4m3(flat[swizzled(i, j // 16, 6)])) * f32(whole.item())

    want = [[number(i, j) for j in range(shape[1])] for i in range(shape[0])]
    scale = u8(flat).reshape(256, 8).view(torch.float8_e4m3fn)
    return "nvfp4", {"weight": u8(packed), "weight_scale": scale, "weight_scale_2": whole}, {}, want


def rotated_back(codes: list, group: int) -> list:
    """Exact: whole numbers times ±1, over a power of two."""
    root = math.isqrt(group)
    return [[sum(row[j // group * group + m] * h(group, m, j % group) for m in range(group)) / root
             for j in range(len(row))] for row in codes]


def case_int8(r: random.Random, rotated: int = 0, rows: bool = True) -> tuple:
    codes = [[r.randint(-128, 127) for _ in range(128)] for _ in range(5)]
    scale = floats(r, 5, 1) if rows else floats(r)
    turned = rotated_back(codes, rotated) if rotated else codes
    want = [[f32(value) * f32(scale.reshape(-1)[n if rows else 0].item()) for value in row]
            for n, row in enumerate(turned)]
    return ("int8", {"weight": torch.tensor(codes, dtype=torch.int8), "weight_scale": scale},
            {"rotated": rotated} if rotated else {}, want)


def case_int4(r: random.Random) -> tuple:
    codes = [[r.randint(-8, 7) for _ in range(64)] for _ in range(5)]
    packed = [[(row[j] & 15) | (row[j + 1] & 15) << 4 for j in range(0, 64, 2)] for row in codes]
    scale = floats(r, 5)
    want = [[f32(v) * f32(scale[n].item()) for v in row] for n, row in enumerate(rotated_back(codes, 64))]
    return "int4", {"weight": u8(packed), "weight_scale": scale}, {"rotated": 64}, want


def case_awq(r: random.Random) -> tuple:
    codes = [[r.randint(0, 15) for _ in range(128)] for _ in range(6)]
    packed = [[row[j] | row[j + 1] << 4 for j in range(0, 128, 2)] for row in codes]
    scale, zero = floats(r, 2, 6), floats(r, 2, 6)
    want = [[f32(c - 8) * f32(scale[j // 64, n].item()) + f32(zero[j // 64, n].item()) for j, c in enumerate(row)]
            for n, row in enumerate(codes)]
    return "awq", {"weight": u8(packed), "weight_scale": scale, "weight_zero": zero}, {"group": 64}, want


def case_w4a8(r: random.Random, book: bool) -> tuple:
    """Not rotated here, so that it is exact: `test_w4a8_rotated` does the rest."""
    codes = [[r.randint(0, 15) for _ in range(64)] for _ in range(6)]
    packed = [[row[j] | row[j + 1] << 4 for j in range(0, 64, 2)] for row in codes]
    relative, channel, correction = floats(r, 6, 4) * 12, floats(r, 6), floats(r, 4, 6)
    codebook = floats(r, 16) * 10 - 8

    def number(n: int, j: int) -> np.float32:
        value = f32(codebook[codes[n][j]].item()) if book else f32(codes[n][j] - 8)
        whole = f32(min(127, max(-127, round(float(value * f32(relative[n, j // 16].item()))))))
        return whole * f32(channel[n].item()) + (f32(correction[j // 16, n].item()) if book else f32(0))

    parts = {"weight": u8(packed), "weight_s_rel": relative, "weight_s_channel": channel}
    if book:
        parts |= {"weight_codebook": codebook, "weight_correction": correction}
    return "w4a8", parts, {"group": 16}, [[number(n, j) for j in range(64)] for n in range(6)]


CASES = {
    "fp8 e4m3": case_fp8, "fp8 e5m2": lambda r: case_fp8(r, kind="e5m2"), "fp8 rows": lambda r: case_fp8(r, rows=True),
    "fp8 squares": case_fp8_squares, "fp8 as many squares as rows": lambda r: case_fp8_squares(r, 4, 512),
    "mxfp8": case_mxfp8, "nvfp4": case_nvfp4, "int8": case_int8, "int8 one scale": lambda r: case_int8(r, rows=False),
    "int8 rotated by 64": lambda r: case_int8(r, 64), "int8 rotated by 16": lambda r: case_int8(r, 16),
    "int4": case_int4, "awq": case_awq,
    "w4a8": lambda r: case_w4a8(r, False), "w4a8 codebook": lambda r: case_w4a8(r, True),
}


@pytest.mark.parametrize("group", [dequant.GROUP, 500], ids=["at once", "in groups of rows"])
@pytest.mark.parametrize("name", CASES)
def test_format(name: str, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequant, "GROUP", group)
    format, parts, parameters, want = CASES[name](random.Random(name))
    assert set(parts) <= set(needed(format))
    want = torch.from_numpy(np.array(want, dtype=np.float32))
    got = dequantise(format, parts, parameters, tuple(want.shape), torch.float32)
    assert torch.equal(got, want)
    assert torch.equal(dequantise(format, parts, parameters, tuple(want.shape), torch.bfloat16), want.bfloat16())


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BY_KERNEL = [name for name in CASES if not name.startswith("w4a8")]


@pytest.mark.parametrize("kind", ["plain", "e4m3", "codebook"])
def test_kernel_of_w4a8_gives_the_same_bits(kind: str, triton_form: None) -> None:
    """Rotated by 16, and 64, as files have it; relative scales that go beyond int8, and a row whose scale is 0."""
    format, parts, parameters, _ = case_w4a8(random.Random(3), kind == "codebook")
    parts.pop("weight_correction", None)
    parts["weight_s_rel"][0] *= 40
    parts["weight_s_channel"][2] = 0
    if kind == "e4m3":
        parts["weight_s_rel"] = parts["weight_s_rel"].clamp(max=400).to(torch.float8_e4m3fn)
    for size in (16, 64):
        told = {**parameters, "rotated": size}
        pick.choose("torch")
        want = dequantise(format, parts, told, (6, 64), torch.float32)
        pick.choose("triton")
        there = {name: part.to(DEVICE) for name, part in parts.items()}
        assert pick.kernels("dequant", there["weight"]).fits(format, there, told)
        assert torch.equal(dequantise(format, there, told, (6, 64), torch.float32).cpu(), want)


@pytest.mark.parametrize("name", BY_KERNEL)
def test_kernels_give_the_same_bits(name: str, triton_form: None) -> None:
    format, parts, parameters, want = CASES[name](random.Random(name))
    want = torch.from_numpy(np.array(want, dtype=np.float32))
    parts = {part: tensor.to(DEVICE) for part, tensor in parts.items()}
    kernels = pick.kernels("dequant", parts["weight"])
    assert kernels.fits(format, parts, parameters)
    dtypes = torch.float32, torch.float16, torch.bfloat16
    for dtype in dtypes[:2] if DEVICE == "cpu" else dtypes:  # the interpreter cuts bfloat16 where it should round
        out = torch.empty(want.shape, dtype=dtype, device=DEVICE)
        dequantise(format, parts, parameters, tuple(want.shape), dtype, out)
        assert torch.equal(out.cpu(), want.to(dtype)), dtype


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_kernels_know_every_code(dtype: torch.dtype, triton_form: None) -> None:
    """All 256 bytes, NaN, infinity and -0 included, without a scale."""
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).reshape(2, 128).view(dtype)
    out = torch.empty(2, 128, device=DEVICE)
    pick.kernels("dequant", codes).dequantise("fp8", {"weight": codes}, {}, out)
    want = codes.float()
    same = (out == want) & (torch.signbit(out) == torch.signbit(want)) | (out.isnan() & want.isnan())
    assert same.all()


def test_every_format_has_a_case() -> None:
    assert {CASES[name](random.Random(0))[0] for name in CASES} == set(FORMATS)


def test_w4a8_rotated() -> None:
    format, parts, parameters, plain = case_w4a8(random.Random(1), True)
    got = dequantise(format, parts, {**parameters, "rotated": 16}, (6, 64), torch.float32)
    want = rotated_back([[float(value) for value in row] for row in plain], 16)
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float32), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_rotation_is_its_own_inverse(size: int) -> None:
    matrix = hadamard(size, torch.device("cpu"))
    assert torch.equal(matrix, matrix.t()) and torch.equal(matrix @ matrix, torch.eye(size))
    assert torch.equal(matrix * size ** 0.5, torch.tensor([[h(size, i, j) for j in range(size)] for i in range(size)],
                                                          dtype=torch.float32))


def test_official_order_of_roundings() -> None:
    """§2.2: fp32(q) s, then one rounding to bf16; not bf16(q) bf16(s)."""
    q, scale = torch.tensor([[1.125]]).to(torch.float8_e4m3fn), torch.tensor(0.0013)
    got = dequantise("fp8", {"weight": q, "weight_scale": scale}, {}, (1, 1), torch.bfloat16)
    assert torch.equal(got, (q.float() * scale).bfloat16())


ZERO = {  # of each format: parts as quantisers leave them for a layer of zeros, where 0/0 is NaN
    "fp8": {"weight": torch.full((4, 32), float("nan")).to(torch.float8_e4m3fn), "weight_scale": torch.zeros(())},
    "fp8 rows": {"weight": torch.full((4, 32), float("nan")).to(torch.float8_e5m2), "weight_scale": torch.zeros(4, 1)},
    "mxfp8": {"weight": torch.full((4, 32), float("nan")).to(torch.float8_e4m3fn),
              "weight_scale": torch.zeros(128, 4, dtype=torch.uint8)},
    "nvfp4": {"weight": torch.full((4, 16), 0x77, dtype=torch.uint8), "weight_scale_2": torch.zeros(()),
              "weight_scale": torch.full((128, 4), float("nan")).to(torch.float8_e4m3fn)},
    "int8": {"weight": torch.full((4, 32), 127, dtype=torch.int8), "weight_scale": torch.zeros(4, 1)},
    "w4a8": {"weight": torch.full((4, 16), 0x77, dtype=torch.uint8), "weight_s_channel": torch.zeros(4),
             "weight_s_rel": torch.full((4, 2), float("nan"))},
}


@pytest.mark.parametrize("name", ["fp8", "fp8 rows", "mxfp8", "nvfp4", "int8"])
def test_kernels_give_zeros_for_a_scale_of_zero(name: str, triton_form: None) -> None:
    parts = {part: tensor.to(DEVICE) for part, tensor in ZERO[name].items()}
    out = torch.ones(4, 32, device=DEVICE)
    dequantise(name.split()[0], parts, {}, (4, 32), torch.float32, out)
    assert not out.any()


@pytest.mark.parametrize("name", ZERO)
def test_a_scale_of_zero_means_zeros(name: str) -> None:
    """comfy-kitchen 0.2.40 stores NaN in a layer of zeros, for fp8 and NVFP4."""
    result = dequantise(name.split()[0], ZERO[name], {"group": 16}, (4, 32), torch.bfloat16)
    assert torch.equal(result, torch.zeros(4, 32, dtype=torch.bfloat16))


def test_only_the_rows_whose_scale_is_zero_become_zeros() -> None:
    weight = torch.tensor([[float("nan"), 1.0], [2.0, -4.0]]).to(torch.float8_e4m3fn)
    parts = {"weight": weight, "weight_scale": torch.tensor([[0.0], [0.5]])}
    assert dequantise("fp8", parts, {}, (2, 2), torch.float32).tolist() == [[0.0, 0.0], [1.0, -2.0]]
    parts["weight_scale"] = torch.tensor(1.0)  # a NaN that the file means stays one
    assert dequantise("fp8", parts, {}, (2, 2), torch.float32).isnan().tolist() == [[True, False], [False, False]]
