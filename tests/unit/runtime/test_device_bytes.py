"""What the 22B transformer takes on a device in every form, from shapes alone: the loader's own count."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx23_core.models.registry import STACKS
from ltx23_core.overlay.bytes.ggml import row_bytes
from ltx23_core.overlay.bytes.source import AnyRef, QuantRef, TensorRef, tensor_bytes
from ltx23_core.overlay.names.layout import OFFICIAL
from ltx23_core.overlay.weight_dtype import AS_STORED, WEIGHT_DTYPES, quantised
from ltx23_core.runtime.sizes import Sizes
from tests.support.overlay import manifest_22b

GB = 1e9
LIMITS = {"as stored": 38.1, "fp8_e4m3fn": 19.5, "fp8_scaled": 19.5, "int8": 19.5, "Q8_0": 20.5, "Q4_K": 11.0}
# Files that are quantised: all matrices of the blocks. MXFP8 has a byte of scale for 32 numbers.
STORED = {"fp8": 19.5, "nvfp4": 11.5, "mxfp8": 20.1, "int8": 19.5}


def plain() -> dict[str, TensorRef]:
    """The transformer's tensors, bf16."""
    tensors = {}
    for key, (_, *shape) in manifest_22b()["tensors"].items():
        for place, name in OFFICIAL.places(key):
            if place == "transformer":
                tensors[name] = ref("BF16", *shape)
    assert len(tensors) > 4000
    return tensors


def ref(dtype: str, *shape: int) -> TensorRef:
    return TensorRef(Path("x"), dtype, tuple(shape), 0, tensor_bytes(dtype, tuple(shape)))


def packed(name: str, tensor: TensorRef, form: str) -> AnyRef:
    """A matrix of a block as a file has it in a form."""
    if not name.startswith("transformer_blocks.") or not name.endswith(".weight") or len(tensor.shape) != 2:
        return tensor
    rows, columns = tensor.shape
    if form == "nvfp4":
        parts = {"weight": ref("U8", rows, columns // 2), "weight_scale_2": ref("F32"),
                 "weight_scale": ref("F8_E4M3", -(-rows // 128) * 128, -(-(columns // 16) // 4) * 4)}
    elif form == "mxfp8":
        parts = {"weight": ref("F8_E4M3", rows, columns),
                 "weight_scale": ref("U8", -(-rows // 128) * 128, -(-(columns // 32) // 4) * 4)}
    else:
        codes = {"fp8": "F8_E4M3", "int8": "I8"}[form]
        parts = {"weight": ref(codes, rows, columns), "weight_scale": ref("F32", rows, 1)}
    return QuantRef(form, (rows, columns), parts)


def gigabytes(tensors: dict[str, AnyRef]) -> float:
    """Of all weights resident, what pieces of memory are rounded up by included."""
    sizes = Sizes("transformer", tensors, torch.bfloat16, STACKS["transformer"])
    return sizes.need({}).weights / GB


@pytest.mark.parametrize("form", WEIGHT_DTYPES)
def test_quantised_on_load(form: str) -> None:
    tensors = plain()
    if form != AS_STORED:
        tensors = {name: quantised(name, tensor, form) for name, tensor in tensors.items()}
    size = gigabytes(tensors)
    print(f"{form}: {size:.2f} GB")
    assert 0.95 * LIMITS[form] < size <= LIMITS[form]


@pytest.mark.parametrize("form", STORED)
def test_quantised_files(form: str) -> None:
    size = gigabytes({name: packed(name, tensor, form) for name, tensor in plain().items()})
    print(f"{form}: {size:.2f} GB")
    assert 0.95 * STORED[form] < size <= STORED[form]


def test_gguf_files_of_others() -> None:
    """They have everything beside the blocks in bf16, and gate logits quantised: 20.6 and 11.4 GB, by their choice."""
    for form, most in (("Q8_0", 20.7), ("Q4_K", 11.45)):
        tensors: dict[str, AnyRef] = {}
        for name, tensor in plain().items():
            tensors[name] = tensor
            if name.startswith("transformer_blocks.") and name.endswith(".weight") and len(tensor.shape) == 2:
                made = {"weight": ref("U8", tensor.shape[0], row_bytes(form, tensor.shape[1]))}
                tensors[name] = QuantRef(form, tensor.shape, made)
        assert 0.98 * most < gigabytes(tensors) <= most


def test_a_streamed_block_is_as_its_file_has_it_and_made_beside() -> None:
    """Quantised on load: the places hold bf16, so that a saved file is what halves the bytes of the bus."""
    refs = plain()
    tensors = {name: quantised(name, tensor, "fp8_e4m3fn") for name, tensor in refs.items()}
    own, made = (Sizes("t", each, torch.bfloat16, STACKS["transformer"]).need({}) for each in (refs, tensors))
    assert made.slot == own.slot > 1.9 * max(made.blocks)
    assert made.work > 0.95 * own.slot, "the numbers of one block"
    assert max(made.blocks) <= made.streamed_work - made.work + 1e7, "and its codes"
