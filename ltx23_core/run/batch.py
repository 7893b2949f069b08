"""Several seeds in one run."""
from __future__ import annotations

from dataclasses import replace

import torch

from ..errors import RequestError
from ..plan.latents import Latents
from .engine import Engine
from .long import LongRunner
from .progress import StepInfo
from .stage import Request, StageRunner


def run_batch(engine: Engine, request: Request, batch: int) -> Latents:
    """Run a request with the seeds seed, seed + 1, …, one after the other.

    One after the other, not side by side: so each sample is bit for bit its single run (batched products round
    otherwise), memory does not grow, and at the sizes of this model one sample fills the device.
    """
    if batch < 1:
        raise RequestError(f"batch is {batch}", "1 or more", "Use 1.")
    runs = (_one(request, index, batch) for index in range(batch))
    results = [(StageRunner(engine, one) if one.timeline is None else LongRunner(engine, one, one.timeline)).run()
               for one in runs]
    video, audio = (None if parts[0] is None else torch.cat(parts)
                    for parts in zip(*((result.video, result.audio) for result in results), strict=True))
    return replace(results[0], video=video, audio=audio)


def _one(request: Request, index: int, batch: int) -> Request:
    """The request of one sample; its steps are reported as part of the whole batch."""
    on_step = request.on_step

    def report(info: StepInfo) -> None:
        on_step(replace(info, step=index * info.steps + info.step, steps=batch * info.steps))

    return replace(request, seed=request.seed + index, on_step=on_step and report,
                   start=request.start and request.start.sample(index))
