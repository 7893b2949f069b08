"""What tensors take in pieces of a device's memory: for the loader, the plan and the choice of files."""
from __future__ import annotations

PIECE, LARGE = 2 << 20, 10 << 20  # bytes: of what the CUDA allocator gives from LARGE on, whole pieces
MIDDLE = 20 << 20  # bytes: the piece that it takes for a tensor of less
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


def forward_pieces(batch: int, tokens: int, width: int, heads: int, itemsize: int, kept: int,
                   pushed: bool = False) -> list[int]:
    """The pieces of memory in which a forward of the transformer has room; [] where its tensors are small.

    The allocator cuts a piece for a smaller tensor if it has none that fits better, and what is made next then finds
    none: so 1280x704 in four passes holds 2.28 GB for 1.62 GB of tensors (simulated; on an H200 0.8 GB more than was
    alive). If there is a piece for each from the beginning, 1.85 GB (simulated by `tests/unit/memory/test_allocator.py`
    for many sizes). They are: what a feed-forward makes, or queries, keys and values; a token's width as often as it is
    there, with the gate logits of one product; the narrower one of attention between the streams; and three for what
    prompts become.

    Args:
        batch: samples.
        tokens: of the video, in one.
        width, heads: of the video.
        itemsize: bytes of a number.
        kept: passes that wait while one runs.
        pushed: normalized attention guidance.
    """
    tokens *= batch
    one = tokens * (width + heads) * itemsize
    if one < LARGE:
        return []
    widths = 4 + 2 * kept + 3 * pushed
    half = tokens * (width // 2 + heads) * itemsize
    return [4 * tokens * width * itemsize, *[one] * widths, *[half] * min(batch, 2), *[batch * MIDDLE] * 3]
