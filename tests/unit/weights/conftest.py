"""Triton's forms, on a GPU or by Triton's interpreter."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from ltx23_core.ops import pick
from tests.support.kernel_forms import need_triton


@pytest.fixture
def triton_form() -> Iterator[None]:
    need_triton()
    pick.choose("triton")
    assert pick.prepare()
    yield
    pick.choose("auto")
