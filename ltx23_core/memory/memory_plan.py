"""The line that says, before anything is allocated, where weights will be."""
from __future__ import annotations

from collections.abc import Sequence

from .room import Need, Placement, gb


def plan_line(needs: Sequence[Need], placements: Sequence[Placement], capacity: float, activations: int) -> str:
    """What is resident, what is streamed, and the peak.

    For example "12.0 GB free: transformer streamed 31 of 48 blocks; peak 11.2 GB".

    Args:
        needs, placements: of the components that run together.
        capacity: bytes that weights and activations may take; infinite where the system manages memory.
        activations: bytes of these.
    """
    free = f"{gb(capacity)} free"
    if capacity == float("inf"):
        free = "memory managed by the system"
    peak, parts = activations, []
    for need, placed in zip(needs, placements, strict=True):
        parts.append(f"{need.name.replace('_', ' ')} {placed.text}")
        peak += placed.peak
    return f"{free}: {', '.join(parts)}; peak {gb(peak)}"
