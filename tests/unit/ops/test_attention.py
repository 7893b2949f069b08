"""When *auto* takes a package's attention kernel: installed, right on this device, and for shapes that gain."""
from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ltx23_core.ops.attention import suits_flash3, working
from ltx23_core.ops.attention_packages import PACKAGES, function_of

CPU = torch.device("cpu")


def right(query, key, value):
    """Over (B, N, heads, d), as packages have it; with the logsumexp that some of them add."""
    made = scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value)))
    return made.transpose(1, 2), None


def refuses(*given):
    raise RuntimeError("only for Hopper")


@pytest.fixture
def package(monkeypatch):
    """Installs a package "fake" with a kernel, and forgets it."""
    def install(kernel):
        module = ModuleType("fake_attention")
        module.__spec__ = torch.__spec__
        module.kernel = kernel
        monkeypatch.setitem(sys.modules, "fake_attention", module)
        monkeypatch.setitem(PACKAGES, "fake", (("fake_attention", "kernel", {}),))
        working.cache_clear()
        function_of.cache_clear()
        return working("fake", CPU)

    yield install
    working.cache_clear()
    function_of.cache_clear()


def test_a_kernel_that_is_right_is_taken(package):
    kernel = package(right)
    query, key, value = torch.randn(3, 2, 4, 16, 8)
    assert torch.equal(kernel(query, key, value), scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("kernel", [refuses, lambda query, key, value: query, lambda *given: given[0] * torch.nan])
def test_a_kernel_that_is_not_is_left(package, kernel):
    assert package(kernel) is None


def test_a_package_that_is_not_there_is_no_error(monkeypatch):
    monkeypatch.setitem(PACKAGES, "gone", (("no_such_module_of_attention", "kernel", {}),))
    assert working("gone", CPU) is None


@pytest.mark.parametrize(("queries", "keys", "dtype", "head", "taken"), [
    (6144, 6144, torch.bfloat16, 128, True), (32640, 1024, torch.bfloat16, 128, True),
    (6144, 126, torch.bfloat16, 128, False), (126, 32640, torch.bfloat16, 128, False),  # sound
    (384, 1024, torch.bfloat16, 128, False),  # a preview: not measured
    (6144, 6144, torch.float16, 128, False), (6144, 6144, torch.float32, 128, False),
    (6144, 6144, torch.bfloat16, 64, False)])
def test_shapes_that_gain(queries, keys, dtype, head, taken):
    query, key = (torch.empty(1, 32, count, head, dtype=dtype, device="meta") for count in (queries, keys))
    assert suits_flash3(query, key) == taken
