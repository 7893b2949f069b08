"""What tensors take in pieces of a device's memory: for the loader, the plan and the choice of files."""
from __future__ import annotations

PIECE, LARGE = 2 << 20, 10 << 20  # bytes: of what the CUDA allocator gives from LARGE on, whole pieces
ALIGNMENT = 256  # bytes: tensors begin where the allocator would let them, so that products choose alike


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def in_pieces(size: int) -> int:
    """What a piece of memory takes on a CUDA device: from 10 MiB on a multiple of 2 MiB."""
    if size < LARGE:
        return size
    return -(-size // PIECE) * PIECE


def together(size: int, tensors: int) -> int:
    """What so many tensors, ``size`` bytes in all, take at most in one piece of memory, each aligned."""
    if size < LARGE:
        return size
    return in_pieces(size + tensors * ALIGNMENT)
