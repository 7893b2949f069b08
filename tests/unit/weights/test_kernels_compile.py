"""Triton's kernels of this room compile for devices, on a machine that has none: the interpreter lets more pass.

A `tl.constexpr` that is assigned twice runs in the interpreter, and failed at the first GPU.
"""
from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter is on: nothing is compiled", allow_module_level=True)

from ltx23_core.ops.triton import dequant, ggml, norms, quantise, rotated

B16, U8, F32 = "*bf16", "*u8", "*fp32"
STRIDES = ("tokens", "x0_batch", "x1_batch", "x0_row", "x1_row", "table_batch", "index_batch", "width", "padding")
ROPE = dict.fromkeys(("x0", "x1", "weight0", "weight1", "cos", "sin"), B16) | {"index": "*i32", "eps": "fp32"} | \
    dict.fromkeys(STRIDES, "i32")
CASES = [
    *((norms, "_norm_rope", ROPE, {"PARTS": parts, "HEADS": 32, "HALF": 64, "ROPE": True, "AXES": axes})
      for parts, axes in ((2, 3), (1, 1), (2, 0))),
    (quantise, "_rowwise", {"weight": B16, "factor": F32, "out": U8, "columns": "i32"}, {"FP8": True, "BLOCK": 2048}),
    (quantise, "_rowwise", {"weight": B16, "factor": F32, "out": U8, "columns": "i32"}, {"FP8": False, "BLOCK": 2048}),
    (quantise, "_q8_0", {"numbers": B16, "out": U8, "count": "i32"}, {"BLOCK": 16}),
    (quantise, "_q4_k", {"numbers": B16, "out": U8, "count": "i32"}, {"STEPS": 7, "BLOCK": 8}),
    *((ggml, "_numbers", {"raw": U8, "out": B16, "count": "i32"}, {
        "KIND": kind, "SIZE": size, "IN_BLOCK": groups, "WIDTH": width, "GROUPS": 64})
      for kind, size, groups, width in ggml.KINDS.values()),
    (rotated, "_awq", {"weight": U8, "scale": B16, "zero": B16, "out": B16, "rows": "i32", "columns": "i32",
                       "group": "i32"}, {"BLOCK": 2048}),
    *((rotated, "_unrotated", {
        "weight": U8 if four else "*i8", "scale": F32, "signs": "*fp16", "out": B16, "rows": "i32", "columns": "i32",
        "stored": "i32", "scales": "i32", "factor": "fp32"}, {
            "SIZE": 256, "FOUR": four, "ROWS": 64, "PART": 64}) for four in (False, True)),
    *((rotated, "_w4a8", {
        "weight": U8, "relative": U8 if e4m3 else F32, "channel": F32, "book": F32, "signs": "*fp16", "out": B16,
        "rows": "i32", "columns": "i32", "group": "i32", "factor": "fp32"}, {
            "E4M3": e4m3, "BOOK": not e4m3, "SIZE": 256, "ROWS": 64, "PART": 64}) for e4m3 in (False, True)),
    (dequant, "_blockwise", {"weight": U8, "scale": U8, "whole": F32, "out": B16, "columns": "i32", "stored": "i32",
                             "across": "i32"}, {"SIZE": 16, "KIND": 3, "BLOCK": 2048}),
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("module", "name", "types", "constants"), CASES, ids=lambda value: str(value)[:40])
def test_compiles(module: ModuleType, name: str, types: dict[str, str], constants: dict[str, object],
                  capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(module, name)
    signature = {argument: types.get(argument, "constexpr") for argument in kernel.arg_names}
    places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32),
                          options={"num_warps": 4, "enable_fp_fusion": False})
    assert made.asm["cubin"]
    assert "fma.rn.f32" not in made.asm["ptx"], "products and sums round apart"
