"""What a step tells its caller."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepInfo:
    """What a step tells its caller.

    Attributes:
        step, steps: steps done and all steps, over all stages and samples.
        stage, stages: current stage, from 1, and the recipe's number of them.
        stage_step, stage_steps: the same of this stage alone, in the window and sample that runs.
        sigma: noise level that the step left.
        preview: uint8 (F', H', W', 3) on the CPU, or None where none is ready; never waits for the device.
    """

    step: int
    steps: int
    stage: int
    stages: int
    sigma: float
    preview: Tensor | None
    stage_step: int = 0
    stage_steps: int = 0


OnStep = Callable[[StepInfo], None]
