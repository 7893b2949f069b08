"""The lines that say, before anything is allocated, where weights will be, how work is cut, and what it takes."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import OutOfMemoryError
from .room import Memory, Need, Placement, first_fitting, gb, place


@dataclass(frozen=True)
class Stage:
    """What is on the device together at one time of a run.

    Attributes:
        needs: of its components.
        activations: bytes beside them, of each way to work, the best first.
        ways: what is said of each; () where there is one, of which nothing is said.
    """

    needs: tuple[Need, ...]
    activations: tuple[int, ...]
    ways: tuple[str, ...] = ()


def plan_line(needs: Sequence[Need], placements: Sequence[Placement], capacity: float, activations: int,
              how: str = "", ram: int | None = None) -> str:
    """What is resident, what is streamed, and the peak, of one stage.

    For example "12.0 GB free: transformer streamed 31 of 48 blocks; peak 11.2 GB".

    Args:
        needs, placements: of the components that run together.
        capacity: bytes that weights and activations may take; infinite where the system manages memory.
        activations: bytes of these.
        how: what else is to be said of the work.
        ram: bytes that the page cache could have; None: not known.
    """
    peak, parts = activations, []
    for need, placed in zip(needs, placements, strict=True):
        parts.append(_placed(need, placed, ram))
        peak += placed.peak
    if how:
        parts.append(how)
    return f"{_free(capacity)}: {', '.join(parts)}; peak {gb(peak)}"


def run_line(stages: Sequence[Stage], capacity: float, memory: Memory, ram: int | None = None) -> str:
    """The same of a whole run, each stage with the device to itself.

    For example "12.0 GB free: text encoder streamed, transformer streamed 31 of 48 blocks, decode 32 frames at a time;
    peak 11.2 GB". What is resident is not said, unless all is. What will be refused is said too.

    Args:
        stages: in order.
        capacity: bytes that weights and activations may take; infinite where the system manages memory.
        memory: the user's wish.
        ram: as of `plan_line`.
    """
    highest, parts = 0, []
    for stage in stages:
        number = first_fitting(stage.needs, capacity, stage.activations, memory)
        try:
            placements = place(stage.needs, capacity, stage.activations[number], memory)
        except OutOfMemoryError as error:
            parts.append(error.found)
            continue
        for need, placed in zip(stage.needs, placements, strict=True):
            if placed.streamed:
                parts.append(_placed(need, placed, ram))
        if stage.ways:
            parts.append(stage.ways[number])
        peak = stage.activations[number] + sum(placed.peak for placed in placements)
        highest = max(highest, peak)
    return f"{_free(memory.capacity(capacity))}: {', '.join(parts) or 'everything resident'}; peak {gb(highest)}"


def resident(stages: Sequence[Stage], capacity: float, memory: Memory,
             name: str = "transformer") -> tuple[int, int] | None:
    """How many blocks of a component stay on the device, and how many it has; None where any stage has no room.

    Args:
        stages, capacity, memory: as of `run_line`.
        name: of the component.
    """
    found = None
    for stage in stages:
        number = first_fitting(stage.needs, capacity, stage.activations, memory)
        try:
            placements = place(stage.needs, capacity, stage.activations[number], memory)
        except OutOfMemoryError:
            return None
        for need, placed in zip(stage.needs, placements, strict=True):
            if need.name == name:
                found = placed.blocks - placed.streamed, placed.blocks
    return found


def _free(capacity: float) -> str:
    if capacity == float("inf"):
        return "memory managed by the system"
    return f"{gb(capacity)} free"


def _placed(need: Need, placed: Placement, ram: int | None) -> str:
    """One component, and from where its blocks come if RAM cannot hold them from one use to the next."""
    text = f"{need.name.replace('_', ' ')} {placed.text}"
    if placed.streamed and ram is not None and placed.away > ram:
        text += f" from the disk ({gb(placed.away)}, {gb(ram)} of RAM free)"
    return text
