"""The tiny model on a GPU against float32 on the CPU, within the bounds that docs/performance.md states."""
from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)

from bench.one_stage import check_tiny, relative
from ltx23_core.errors import RequestError
from ltx23_core.ops.attention import BACKENDS, PACKAGES, attention_backend, check_backend


def test_tiny_model_agrees_with_the_cpu():
    errors = check_tiny(torch.device("cuda"))
    for name, error in errors.items():
        bound = 0.02 if "frames" in name else 1e-4 if "fp32" in name else 0.02 if "distilled" in name else 0.10
        print(f"{name}: {error:.2e}, bound {bound:.0e}")
        assert error <= bound, name


BOUNDS = dict.fromkeys(BACKENDS, 1e-2) | {"sage": 2e-2}


def skip_without(name, head_dim=128):
    """Of a package that is not installed, or has no such width."""
    if name in PACKAGES and head_dim < 64:
        pytest.skip(f"{name} is for heads of 64 and more")
    try:
        check_backend(name, torch.device("cuda"), torch.bfloat16)
    except RequestError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_attention_backends_agree_with_float64(name, head_dim):
    skip_without(name)
    generator = torch.Generator("cuda").manual_seed(5)
    query, key, value = (torch.randn(1, 4, n, head_dim, generator=generator, device="cuda", dtype=torch.bfloat16)
                         for n in (320, 1024, 1024))
    want = torch.softmax(query.double() @ key.double().mT / head_dim**0.5, -1) @ value.double()
    got = attention_backend(name)(query, key, value, None)
    assert relative(got, want) < BOUNDS[name]
    bias = torch.zeros(1, 1, 320, 1024, device="cuda", dtype=torch.bfloat16)
    bias[..., 512:] = torch.finfo(torch.bfloat16).min
    half = torch.softmax(query.double() @ key[:, :, :512].double().mT / head_dim**0.5, -1) @ value[:, :, :512].double()
    assert relative(attention_backend(name)(query, key, value, bias), half) < 1e-2


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("gates", [4, 32])
def test_attention_over_rows_behind_gate_logits(name, head_dim, gates):
    """Views of one packed product, whose rows need not begin at a multiple of 16 bytes."""
    skip_without(name, head_dim)
    heads = 4
    generator = torch.Generator("cuda").manual_seed(6)
    packed = torch.randn(1, 320, gates + 3 * heads * head_dim, generator=generator, device="cuda", dtype=torch.bfloat16)
    query, key, value = (part.unflatten(-1, (heads, head_dim)).transpose(1, 2)
                         for part in packed[..., gates:].chunk(3, dim=-1))
    want = torch.softmax(query.double() @ key.double().mT / head_dim**0.5, -1) @ value.double()
    assert relative(attention_backend(name)(query, key, value, None), want) < BOUNDS[name]
