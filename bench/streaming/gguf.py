"""GGUF files of the 22B transformer with random blocks: for their size and their load, not for their numbers."""
from __future__ import annotations

import math
import struct
from pathlib import Path

import torch

from bench.generate_weights import Layout

F32 = 0  # types of GGUF
KINDS = {"Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144)}  # type, numbers and bytes of a block
ALIGNMENT = 32
# Factors of a Q4_K block, float16: 6.1e-5 for its numbers, 7.5 times as much for its minimums: weights of the size
# (0.015) that 4096 columns should have, which even out.
FACTORS = (0x00, 0x04, 0x80, 0x0F)


def _kind(shape: tuple[int, ...], form: str) -> tuple[int, int]:
    """Type of a tensor, and its bytes."""
    count = math.prod(shape)
    kind, numbers, size = KINDS[form]
    if len(shape) == 2 and shape[1] % numbers == 0:
        return kind, count // numbers * size
    return F32, count * 4


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def header(layout: Layout, prefix: str, form: str) -> tuple[bytes, int]:
    """The header, padded, and the number of bytes behind it. Names lose ``prefix``, as conversion tools write them."""
    infos, offset = [], 0
    for name, (_, shape) in layout.items():
        kind, size = _kind(shape, form)
        dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        infos.append(_text(name.removeprefix(prefix)) + struct.pack("<I", len(shape)) + dims
                     + struct.pack("<IQ", kind, offset))
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), 1)
    head += _text("general.architecture") + struct.pack("<I", 8) + _text("ltxv") + b"".join(infos)
    return head + bytes(-len(head) % ALIGNMENT), offset


def write_q4(path: Path, layout: Layout, prefix: str, device: torch.device) -> int:
    """Write a Q4_K file; returns its bytes."""
    head, size = header(layout, prefix, "Q4_K")
    block = KINDS["Q4_K"][2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        for _, shape in layout.values():
            kind, count = _kind(shape, "Q4_K")
            if kind == F32:
                data = torch.randn(shape, device=device) * 0.02
            else:
                data = torch.randint(0, 256, (count // block, block), dtype=torch.uint8, device=device)
                data[:, :4] = torch.tensor(FACTORS, dtype=torch.uint8, device=device)
            file.write(memoryview(data.reshape(-1).view(torch.uint8).cpu().numpy()))
            file.write(bytes(-count % ALIGNMENT))
    return len(head) + size
