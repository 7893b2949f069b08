"""The number formats of GGUF files: names, sizes of their blocks, which of them can be read (spec/09 §2.8).

A quantised tensor of a GGUF file is a `QuantRef` whose format is the name of its ggml type and whose one part is its
bytes, row by row. All else is a plain `TensorRef`, except what is stored as 1 + w.
"""
from __future__ import annotations

from dataclasses import replace

from .source import AnyRef, QuantRef, TensorRef

# id -> (name, values of a block, bytes of a block). Q4_2, Q4_3 and the repacked types left the format long ago.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}
BLOCKS: dict[str, tuple[int, int]] = {name: (values, size) for name, values, size in TYPES.values()}
READABLE = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
PLUS_ONE = "1+w"  # the file holds 1 + w (llama.cpp's norms of Gemma, spec/09 §2.9)
GGUF_FORMATS = (*READABLE, PLUS_ONE)  # formats of a `QuantRef` that GGUF brings


def is_quantised(kind: str) -> bool:
    """Whether this is a ggml type of blocks, readable or not."""
    return BLOCKS.get(kind, (1, 0))[0] > 1


def row_bytes(kind: str, values: int) -> int:
    """Bytes of a row.

    Args:
        kind: a name of `TYPES`.
        values: numbers in a row.

    Raises:
        ValueError: a row is no whole number of blocks.
    """
    block, size = BLOCKS[kind]
    if values % block:
        raise ValueError(f"rows of {values} values are no multiple of {block}")
    return values // block * size


def ggml_ref(tensor: TensorRef, kind: str, shape: tuple[int, ...]) -> AnyRef:
    """A tensor of a GGUF file: a plain one as it is, one of blocks as bytes of rows with the type as format.

    Args:
        tensor: its range in the file; dtype and shape do not count.
        kind: a name of `TYPES`.
        shape: as torch has it.
    """
    if not is_quantised(kind):
        return replace(tensor, dtype=kind, shape=shape)
    rows = (*shape[:-1], row_bytes(kind, shape[-1] if shape else 1))
    return QuantRef(kind, shape, {"weight": replace(tensor, dtype="U8", shape=rows)})


def plus_one(ref: TensorRef) -> QuantRef:
    """Marks a plain tensor as one that holds 1 + w."""
    return QuantRef(PLUS_ONE, ref.shape, {"weight": ref})
