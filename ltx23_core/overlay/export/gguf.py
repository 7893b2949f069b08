"""A GGUF file of the transformer, as ComfyUI's users have them (spec/09 §2.8): official names without prefix.

Matrices that are not quantised stay as they are stored. All else becomes float32: ComfyUI's loader takes bfloat16
apart only where a layer multiplies with it, and tables are added.
"""
from __future__ import annotations

import struct
from collections.abc import Mapping

from ...errors import ExportError
from ..bytes.ggml import TYPES
from ..bytes.source import AnyRef, QuantRef, TensorRef, tensor_bytes
from ..packed.formats import FLOATS
from .files import Made, OutputFile

PREFIX = "model.diffusion_model."
ALIGNMENT = 32  # bytes, the format's own
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
_FILE_TYPES = {"Q8_0": 7, "Q4_K": 14}  # llama.cpp's "mostly": Q8_0, Q4_K small
_U32, _STRING = 4, 8


def gguf_file(name: str, form: str, tensors: Mapping[str, AnyRef], metadata: Mapping[str, str]) -> OutputFile:
    """The file.

    Args:
        name: of it.
        form: what most of it is.
        tensors: official key -> weight; quantised ones are made (`overlay.weight_dtype`).
        metadata: texts for its head, such as ``config``.
    """
    values = [("general.architecture", "ltxv"), ("general.quantization_version", 2),
              ("general.file_type", _FILE_TYPES[form]), *metadata.items()]
    head, offset, made = [], 0, []
    for key, ref in sorted(tensors.items(), key=lambda item: (str(item[1].path), item[1].start)):
        stored = _as_made(key, ref)
        part = Made(stored, -stored.parts["weight"].size_bytes % ALIGNMENT)
        head.append(_text(key.removeprefix(PREFIX)) + struct.pack("<I", len(ref.shape))
                    + struct.pack(f"<{len(ref.shape)}Q", *reversed(ref.shape))
                    + struct.pack("<IQ", _NUMBERS[stored.format], offset))
        offset += part.size
        made.append(part)
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(made), len(values))
    begin = b"".join((begin, *map(_pair, values), *head))
    return OutputFile(name, begin + bytes(-len(begin) % ALIGNMENT), tuple(made))


def _as_made(key: str, ref: AnyRef) -> QuantRef:
    """A tensor as the file has it, and what it is made of.

    Raises:
        ExportError: it is quantised in its source already.
    """
    if isinstance(ref, QuantRef) and ref.origin is not None:
        return ref
    dtype = ref.dtype
    if dtype not in FLOATS:
        raise ExportError(f"{key} is {dtype}", "bf16, fp16 or fp32 weights for a GGUF file",
                          "Make the overlay of bf16 files, and export again.")
    if not key.endswith(".weight") or len(ref.shape) != 2:
        dtype = "F32"
    part = TensorRef(ref.path, dtype, ref.shape, 0, tensor_bytes(dtype, ref.shape))
    return QuantRef(dtype, ref.shape, {"weight": part}, origin=ref)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(pair: tuple[str, str | int]) -> bytes:
    key, value = pair
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    return _text(key) + struct.pack("<II", _U32, value)
