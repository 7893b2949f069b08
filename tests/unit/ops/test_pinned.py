"""A host may have pinned all RAM that the system lets be pinned: then ordinary memory does, everywhere."""
from __future__ import annotations

import re
from pathlib import Path

import torch

import ltx23_core
from ltx23_core.ops.record import pinned

ROOT = Path(ltx23_core.__file__).parent


def test_a_refused_pinned_buffer_is_an_ordinary_one() -> None:
    """A torch without a device refuses pinned memory, as a system does that grants no more."""
    picture = torch.randint(0, 255, (2, 4, 4, 3), dtype=torch.uint8)
    host = pinned(picture.shape, picture.dtype)
    assert host.is_pinned() == torch.cuda.is_available()
    assert torch.equal(host.copy_(picture, non_blocking=True), picture)
    assert pinned((), torch.float32).shape == ()


def test_pinned_memory_is_asked_for_in_one_place() -> None:
    """Who asks for it elsewhere has no other way when it is refused."""
    asking = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")
              if re.search(r"pin_memory|cudaHostAlloc", path.read_text(encoding="utf-8"))]
    assert asking == ["ops/record.py"]
