"""What a streamed step loses, and ways to lose less: recorded or not, a third place.

Each row has what the step takes without copies and what copies take alone, so that it shows whether host, bus or device
is what it waits for. Results must equal those of the first row bit for bit.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ltx23_core import Overlay
from ltx23_core.memory import room
from ltx23_core.runtime import stream

from .rows import Rows

# Name -> environment, places that streamed blocks share, whether it is within the budget.
WAYS: dict[str, tuple[dict[str, str], int, bool]] = {
    "resident": ({}, 2, False),
    "resident, not recorded": ({"LTX23_GRAPHS": "0"}, 2, False),
    "as it is": ({}, 2, True),
    "three places": ({}, 3, True),
    "as it is, again": ({}, 2, True),
}


@contextmanager
def changed(environment: dict[str, str], places: int) -> Iterator[None]:
    """The process as a way wants it."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    room.SLOTS = stream.SLOTS = places
    try:
        yield
    finally:
        room.SLOTS = stream.SLOTS = 2
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def run(rows: Rows, name: str, overlay: Overlay, size: str = "768x512", budget: float = 8, repeats: int = 3,
        passes: int = 4) -> None:
    """One row a way: a guided step, or a call of one pass.

    Args:
        rows: that print.
        name: of the weights.
        overlay: with them.
        size: of `rows.SIZES`.
        budget: in GB.
        repeats: timed calls a row.
        passes: of a step.
    """
    first: float | None = None
    want: list[Tensor] = []
    component = rows.component("transformer", overlay)
    for way, (environment, places, streamed) in WAYS.items():
        if passes == 1 and not streamed:
            continue
        key = f"{name}, {way}"
        if first is not None:
            rows.best[key, size, passes] = first  # all against the first one
        with changed(environment, places):
            rows.steps(key, overlay, component, size, passes, (budget if streamed else None,), repeats, want,
                       apart=way.startswith("as it is"))
        first = first or rows.best.get((key, size, passes))
    component.release(pages=True)
