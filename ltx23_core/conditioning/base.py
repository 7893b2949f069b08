"""What a condition is in a run: something that holds part of the streams, or adds to them, before a stage begins."""
from __future__ import annotations

from typing import Protocol

from ..plan.condition import Planned, StageSetting
from ..sampling.state import StatePair


class Condition(Planned, Protocol):
    """One condition: planned (`plan.condition.Planned`), and applied at each stage."""

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """The (video, audio) states with this condition, before noise. None is a stream that is not made."""
