"""A resident block is one piece of memory: what leaves leaves no hole, in every form of weights."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ltx23_core import Overlay, Pipeline, materialize
from ltx23_core.config import Stack
from ltx23_core.memory.pieces import LARGE, PIECE, in_pieces
from ltx23_core.ops.matmul import packed
from ltx23_core.overlay.bytes.source import TensorRef
from ltx23_core.runtime.arena import Arenas
from ltx23_core.runtime.policy import Streamed
from ltx23_core.runtime.residency import LocalResidency
from ltx23_core.runtime.sizes import Sizes
from tests.goldens.harness import CHECKPOINT, GEMMA
from tests.support import layouts_quantised as forms
from tests.support.layouts import Written
from tests.support.lora import gguf_overlay

CPU = torch.device("cpu")
FORMS: dict[str, Callable[[Path], Written]] = {
    "fp8": forms.official_fp8, "mxfp8": forms.comfy_mxfp8, "nvfp4": forms.official_nvfp4, "int8": forms.comfy_int8}


def overlay_of(form: str, folder: Path) -> Overlay:
    if form == "bf16":
        return materialize(CHECKPOINT, GEMMA, output=folder / "o.json")
    if form == "gguf":
        return gguf_overlay(folder)
    written = FORMS[form](folder)
    return materialize(written.checkpoint, **({"text_encoder": GEMMA} | written.arguments), output=folder / "o.json")


def storages(module: nn.Module) -> dict[int, int]:
    """Address -> bytes of each piece of memory that a module's tensors lie in."""
    tensors = [tensor for tensor in module.state_dict().values() if not tensor.is_meta]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("form", ["bf16", *FORMS, "gguf"])
def test_each_block_is_one_piece(form: str, dtype: str, tmp_path: Path) -> None:
    pipe = Pipeline(overlay_of(form, tmp_path), dtype=dtype, residency=LocalResidency(CPU))
    component = pipe.component("transformer")
    component.load(CPU)
    pieces = [storages(block) for block in component.block_modules]
    assert [len(each) for each in pieces] == [1] * len(pieces)
    assert len({address for each in pieces for address in each}) == len(pieces), "each its own"
    need = component.need()
    for block, piece, size in zip(component.block_modules, pieces, need.blocks, strict=True):
        aligning = 256 * len(block.state_dict())
        assert size <= sum(piece.values()) <= size + aligning, "no more than its tensors"
    assert len(storages(component.module)) == len(pieces) + 1, "all else is one piece too"


def test_projections_still_lie_together(tmp_path: Path) -> None:
    component = Pipeline(overlay_of("bf16", tmp_path), residency=LocalResidency(CPU)).component("transformer")
    component.load(CPU)
    groups = [[part.get_submodule(name) for name in group] for part in component.module.modules()
              for group in getattr(part, "together", ())]
    assert len(groups) > 4 and all(packed(group) is not None for group in groups)


def test_blocks_that_stay_keep_their_memory_and_those_that_leave_hold_none(tmp_path: Path) -> None:
    component = Pipeline(overlay_of("bf16", tmp_path), residency=LocalResidency(CPU)).component("transformer")
    component.load(CPU)
    before = [storages(block) for block in component.block_modules]
    component.place(Streamed(3), CPU)
    after = [storages(block) for block in component.block_modules]
    kept = [number for number, piece in enumerate(after) if piece]
    assert len(kept) == len(before) - 3
    assert all(after[number] == before[number] for number in kept)


def test_several_dtypes_as_stored_overrun_no_piece(tmp_path: Path) -> None:
    """Behind each other is planned in the dtype of the first; what does not fit so gets memory of its own."""
    refs = {name: TensorRef(tmp_path / "w", kind, (4, 64), 0, 4 * 64 * size)
            for name, kind, size in (("a", "F32", 4), ("b", "BF16", 2))}
    memory = Arenas([("a", "b")], refs, CPU, None)
    both = memory.take("a", (8, 64), torch.float32)
    other = memory.take("b", (4, 64), torch.bfloat16)
    both.zero_()
    other.fill_(1)
    assert both.shape == (8, 64) and not both.any() and other.all()


@pytest.mark.parametrize("size, takes", [(0, 0), (5, 5), (LARGE - 1, LARGE - 1), (LARGE, LARGE),
                                         (LARGE + 1, LARGE + PIECE), (773_000_000, 773_849_088)])
def test_what_a_piece_takes_on_a_device(size: int, takes: int) -> None:
    """The CUDA allocator's: from 10 MiB on multiples of 2 MiB."""
    assert in_pieces(size) == takes


def test_the_plan_counts_whole_pieces() -> None:
    refs = {f"b.{block}.{name}": TensorRef(Path("w"), "BF16", (rows, 1024), 0, rows * 2048)
            for block in range(2) for name, rows in (("x", 6000), ("y", 77))}
    sizes = Sizes("t", refs | {"z": TensorRef(Path("w"), "BF16", (3,), 0, 6)}, torch.bfloat16, Stack(("b",)))
    exact = (6000 + 77) * 2048
    [first, second] = sizes.need({}).blocks
    assert first == second and first % PIECE == 0 and 0 < first - exact < PIECE
    assert sizes.need({}).weights == 2 * first + 6
