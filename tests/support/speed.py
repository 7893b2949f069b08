"""Limits of processor time that hold on any machine: counted in seconds of the one that they were set on."""
from __future__ import annotations

import json
import time
from collections.abc import Callable

TABLE = {f"blocks.{number}.weight": ["BF16", [number, 4096], number] for number in range(1000)}
YARD = 0.047  # seconds of `yard` on a core of an EPYC 9004 at 2.6 GHz, with 5 programs beside on 2 cores


def yard() -> float:
    """Processor seconds that a fixed piece of Python work takes here and now."""
    begin = time.process_time()
    for _ in range(50):
        json.loads(json.dumps(TABLE))
    return time.process_time() - begin


def within(limit: float, run: Callable[[], float]) -> bool:
    """Whether one of five runs, each of which says what it took, keeps to a limit in seconds."""
    for _ in range(5):
        took, slower = run(), max(1.0, yard() / YARD)
        print(f"{took:.2f} s of the processor, which is {slower:.1f} times slower than the one of the limit, {limit} s")
        if took < limit * slower:
            return True
    return False
