"""What would keep more of the transformer on the device: said of a plan and of chosen files, never done unasked."""
from __future__ import annotations

from collections.abc import Callable, Mapping

from .room import Memory, Need, fitting, gb


def smaller_weights(stored: Need, others: Callable[[], Mapping[str, Need]], room: float,
                    memory: Memory | None = None) -> str:
    """A sentence that names a weight_dtype, where the weights as they are stored would have to be streamed.

    Args:
        stored: of the transformer as its file has it.
        others: gives weight_dtype -> of the same one quantised while it is read, the most exact first.
        room: bytes for weights and what they become while they run.
        memory: the user's wish; who asks for streaming gets no advice. None: auto.

    Returns:
        The first with which all is resident; else the one that streams fewest blocks; "" where none is better.
    """
    wish = memory or Memory()
    now = fitting(stored, room, wish)
    if wish.mode != "auto" or now is None or not now.streamed:
        return ""
    best, fewest = "", now.streamed
    for name, need in others().items():
        placed = fitting(need, room, wish)
        if placed is None or placed.streamed >= fewest:
            continue
        if not placed.streamed:
            peak = gb(placed.peak)
            return f"weight_dtype {name} would keep it whole on the device, in {peak} (lossy: other results)"
        best, fewest = name, placed.streamed
    if not best:
        return ""
    return (f"weight_dtype {best} would stream {fewest} of {now.blocks} blocks instead of {now.streamed} "
            "(lossy: other results)")
