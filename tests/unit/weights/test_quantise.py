"""Quantising: errors, the same bytes whatever the way, and what other tools read of them."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ltx23_core.ops import pick
from ltx23_core.overlay.bytes.ggml import BLOCKS
from ltx23_core.overlay.bytes.source import QuantRef, TensorRef, tensor_bytes
from ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES, quantised
from ltx23_core.plan import settings
from ltx23_core.weights import quantise as forms
from ltx23_core.weights.dequant import dequantise
from ltx23_core.weights.quantise import quantise
from ltx23_core.weights.reader import TORCH_DTYPES
from tests.support.gguf import gguf

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = "transformer_blocks.0.ff.net.2.weight"
FORMS = WEIGHT_DTYPES[1:]


def ref_of(form: str, shape: tuple[int, int], name: str = NAME, dtype: str = "BF16") -> QuantRef | TensorRef:
    return quantised(name, TensorRef(Path("x"), dtype, shape, 0, tensor_bytes(dtype, shape)), form)


def made(form: str, weight: Tensor) -> tuple[QuantRef, dict[str, Tensor]]:
    """A weight's reference and parts."""
    ref = ref_of(form, tuple(weight.shape))
    parts = {name: torch.full(part.shape, 77).to(TORCH_DTYPES[part.dtype]) for name, part in ref.parts.items()}
    quantise(ref.format, weight, parts)
    return ref, parts


def again(form: str, weight: Tensor) -> Tensor:
    """The numbers after quantising, float32."""
    ref, parts = made(form, weight)
    return dequantise(ref.format, parts, ref.parameters, ref.shape, torch.float32)


def error(got: Tensor, want: Tensor) -> float:
    """Relative L2."""
    return float((got - want.float()).norm() / want.float().norm())


def normal(rows: int = 96, columns: int = 1024, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)) * 0.02).to(dtype)


# Measured on normal numbers; of Q4_K also with heavier tails (Student's t with 4 degrees): 0.088, of Q4_0 0.116.
ERRORS = {"fp8_e4m3fn": 0.0265, "fp8_scaled": 0.0265, "int8": 0.0078, "Q8_0": 0.0054, "Q4_K": 0.0716}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_error_of_each_form(form: str, dtype: torch.dtype) -> None:
    weight = normal(dtype=dtype)
    assert error(again(form, weight), weight) == pytest.approx(ERRORS[form], rel=0.03)


def test_names_are_those_of_settings() -> None:
    assert settings.WEIGHT_DTYPES == WEIGHT_DTYPES and WEIGHT_DTYPES[0] == AS_STORED


def test_q8_0_is_as_exact_as_the_gguf_packages() -> None:
    weight = normal()
    kind = gguf.GGMLQuantizationType.Q8_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.float().numpy(), kind), kind)
    assert error(again("Q8_0", weight), weight) <= 1.001 * error(torch.from_numpy(theirs), weight)


@pytest.mark.parametrize("form", ["Q8_0", "Q4_K"])
def test_the_gguf_package_reads_the_same_numbers(form: str) -> None:
    ref, parts = made(form, normal())
    assert parts["weight"].shape == (96, 1024 // BLOCKS[form][0] * BLOCKS[form][1])
    theirs = gguf.quants.dequantize(parts["weight"].numpy(), gguf.GGMLQuantizationType[form])
    assert torch.equal(torch.from_numpy(theirs), dequantise(form, parts, {}, ref.shape, torch.float32))


def test_q4_k_is_better_than_q4_0() -> None:
    weight = normal()
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(weight.float().numpy(), kind), kind)
    assert error(again("Q4_K", weight), weight) < 0.85 * error(torch.from_numpy(theirs), weight)


DRAWN = torch.Generator().manual_seed(5)
ODD = {
    "zeros": torch.zeros(4, 256), "one row of zeros": torch.cat((torch.zeros(1, 256), torch.ones(3, 256))),
    "all positive": torch.rand(4, 256, generator=DRAWN) + 3, "all negative": -torch.rand(4, 256, generator=DRAWN) - 3,
    "one large number": torch.nn.functional.one_hot(torch.tensor([0, 100, 200, 255]), 256) * 1000.0,
    "small": torch.randn(4, 256, generator=DRAWN) * 1e-3, "huge": torch.randn(4, 256, generator=DRAWN) * 1e6,
    "one number in a group": torch.cat((torch.full((4, 224), 0.5), torch.randn(4, 32, generator=DRAWN)), 1),
}
# A code of fp8 is at most 1/16 wrong; offsets of Q4_K have 6 bits for 256 numbers. (Both GGUF forms have float16
# scales, whose steps are 6e-8: numbers of 1e-6 are lost there.)
WORST = {"fp8_e4m3fn": 1 / 16, "fp8_scaled": 1 / 16, "int8": 0.02, "Q8_0": 0.02, "Q4_K": 0.2}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ODD)
def test_odd_weights(name: str, form: str) -> None:
    weight = ODD[name].bfloat16()
    got = again(form, weight)
    assert got.isfinite().all()
    assert torch.equal(got == 0, weight == 0) or form in ("fp8_scaled", "int8", "Q8_0", "Q4_K")
    assert float((got - weight.float()).norm()) <= WORST[form] * float(weight.float().norm())
    empty = ~weight.any(dim=1)
    assert not got[empty].any(), "a row of zeros stays one"


@pytest.mark.parametrize("form", FORMS)
def test_numbers_beyond_a_form_become_its_largest(form: str) -> None:
    """float16's scales end at 65504: with the codes 8.3 million in Q8_0, 4.1 in Q4_K."""
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(6)) * 1e8
    got = again(form, weight)
    assert got.isfinite().all()
    large = weight.abs() > 0.2 * weight.abs().amax()
    assert (got.sign() == weight.sign())[large].all() and got[large].abs().min() > 4e6


@pytest.mark.parametrize("form", FORMS)
def test_rows_done_in_groups_are_the_same(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(rows=23, columns=512)
    want = made(form, weight)[1]
    monkeypatch.setattr(forms, "GROUP", 5 * 512)
    got = made(form, weight)[1]
    assert all(torch.equal(got[name].float(), want[name].float()) for name in want)


def test_what_is_quantised_and_what_stays() -> None:
    def form(name: str, shape: tuple[int, ...], weight_dtype: str, dtype: str = "BF16") -> str:
        return getattr(ref_of(weight_dtype, shape, name, dtype), "format", "stays")

    adaln, gates = "adaln_single.linear.weight", "transformer_blocks.3.attn1.to_gate_logits.weight"
    for weight_dtype, block, outer in (("fp8_e4m3fn", "fp8", "stays"), ("fp8_scaled", "fp8", "stays"),
                                       ("int8", "int8", "stays"), ("Q8_0", "Q8_0", "Q8_0"), ("Q4_K", "Q4_K", "Q8_0")):
        assert form(NAME, (64, 512), weight_dtype) == block
        assert form(adaln, (64, 512), weight_dtype) == outer
        before = "av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_2.weight"
        assert form(before, (64, 512), weight_dtype) == ("Q8_0" if weight_dtype == "Q4_K" else "stays")
        last = "prompt_adaln_single.linear.weight"
        assert form(last, (64, 512), weight_dtype) == (block if weight_dtype in ("Q8_0", "Q4_K") else "stays")
        for name in (gates, "adaln_single.emb.timestep_embedder.linear_2.weight", "patchify_proj.weight",
                     "av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1.weight", "proj_out.weight",
                     "audio_patchify_proj.weight",
                     "transformer_blocks.0.scale_shift_table", "transformer_blocks.0.ff.net.2.bias"):
            assert form(name, (64, 512), weight_dtype) == "stays", name
        assert form(NAME, (64,), weight_dtype) == "stays"
        assert form(NAME, (64, 512), weight_dtype, "F8_E4M3") == "stays"
    assert form(NAME, (64, 96), "Q4_K") == "Q8_0", "rows of no whole block of 256"
    assert form(NAME, (64, 40), "Q4_K") == form(NAME, (64, 40), "fp8_e4m3fn") == "stays"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_give_the_same_bytes(form: str, dtype: torch.dtype, triton_form: None) -> None:
    weights = [normal(rows=5, columns=2304, dtype=dtype), *(weight.to(dtype) for weight in ODD.values())]
    for weight in weights:
        pick.choose("torch")
        want = made(form, weight)[1]
        pick.choose("triton")
        assert pick.kernels("quantise", weight) is not None
        got = made(form, weight.to(DEVICE))[1]
        for name, part in want.items():
            same = got[name].cpu().reshape(-1).view(torch.uint8), part.reshape(-1).view(torch.uint8)
            assert torch.equal(*same), (name, weight)


def test_fp8_codes_of_the_kernel_are_torchs(triton_form: None) -> None:
    """Between and on all codes: ties, numbers below the smallest normal one, signs."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    finite = codes[codes.isfinite()].sort().values
    middle = (finite[1:] + finite[:-1]) / 2
    numbers = torch.cat((finite, middle, middle * 1.0001, middle * 0.9999, torch.tensor([448.0, -448.0])))
    weight = numbers[:numbers.numel() // 16 * 16].view(1, -1).to(DEVICE)
    got = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=DEVICE)
    pick.kernels("quantise", weight).rowwise(weight, torch.ones(1, 1, device=DEVICE), got)
    assert torch.equal(got.view(torch.uint8), weight.to(torch.float8_e4m3fn).view(torch.uint8))
