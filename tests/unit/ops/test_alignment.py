"""Rows that fused attention kernels may read."""
from __future__ import annotations

import pytest
import torch

from ltx23_core.ops.attention import ALIGNMENT, aligned


def rows(gates: int, heads: int, d: int, dtype: torch.dtype) -> torch.Tensor:
    """Values (1, heads, 5, d) as the packed product leaves them: behind gate logits, queries and keys of a row."""
    packed = torch.randn(1, 5, gates + 3 * heads * d, generator=torch.Generator().manual_seed(1)).to(dtype)
    return packed[..., gates + 2 * heads * d:].unflatten(-1, (heads, d)).transpose(1, 2)


@pytest.mark.parametrize("gates, heads, d", [(4, 4, 16), (4, 4, 8), (1, 1, 64), (3, 2, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_at_odd_places_are_copied(gates, heads, d, dtype):
    value = rows(gates, heads, d, dtype)
    got = aligned(value)
    assert torch.equal(got, value)
    assert got.data_ptr() % ALIGNMENT == 0
    assert all(stride * got.element_size() % ALIGNMENT == 0 for stride in got.stride()[:-1])


@pytest.mark.parametrize("heads, d", [(32, 128), (32, 64)])
def test_rows_of_the_released_model_are_not_copied(heads, d):
    value = rows(heads, heads, d, torch.bfloat16)
    assert aligned(value) is value
