"""Several seeds in one run."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..plan.decide import Decision
from ..plan.latents import Latents, PromptPair
from ..plan.together import source_waveform
from .engine import Engine
from .fingerprint import fingerprint
from .preview import LatentToRGB
from .progress import OnStep
from .resume import Progress, sweep
from .stage import Job, Runner

Say = Callable[[str], None]


def run_batch(engine: Engine, plan: Decision, context: PromptPair, *, on_step: OnStep | None = None,
              preview_map: LatentToRGB | None = None, say: Say | None = None) -> Latents:
    """Run a plan with the seeds seed, seed + 1, …, one after the other.

    One after the other, not side by side: so each sample is bit for bit its single run (batched products round
    otherwise), memory does not grow, and at the sizes of this model one sample fills the device. Of a long video that
    is kept on disk, samples that an earlier run finished are not made again.
    """
    kept = _kept(engine, plan, context, say)
    cache: dict[Hashable, tuple[object, Tensor]] = {}
    results = []
    for index, progress in enumerate(kept):
        job = Job(
            context=context,
            seed=plan.seed + index,
            start=plan.start and plan.start.sample(index),
            before=index * plan.steps,
            progress=progress,
            on_step=on_step,
            preview_map=preview_map,
            cache=cache,
        )
        results.append(_sample(engine, plan, job))
    for progress in kept:
        progress.finish()
    if plan.batch == 1:
        return results[0]
    return replace(results[0], video=_together(results, "video"), audio=_together(results, "audio"))


def _together(results: Sequence[Latents], stream: str) -> Tensor | None:
    """One stream of all samples, (B, …)."""
    parts = [getattr(result, stream) for result in results]
    if parts[0] is None:
        return None
    return torch.cat(parts)


def _sample(engine: Engine, plan: Decision, job: Job) -> Latents:
    """One sample, made or taken over."""
    found = job.progress.result()
    if found is not None:
        return Latents(**found, fps=plan.clip.fps, frames=plan.clip.frames, seed=job.seed,
                       waveform=source_waveform(plan.conditions, plan.clip))
    made = Runner(engine, plan, job).run()
    if plan.batch > 1:
        job.progress.keep(made)
    return made


def _kept(engine: Engine, plan: Decision, context: PromptPair, say: Say | None) -> list[Progress]:
    """For each sample what keeps its windows: files named after everything that its result depends on."""
    folder = plan.timeline.settings.resume
    if folder is None:
        return [Progress()] * plan.batch
    sweep(folder)
    model = (engine.overlay.id, str(engine.dtype), engine.lora_state)
    digest = fingerprint(*model, context, replace(plan, batch=1, seed=0), check=engine.residency.check)
    return [Progress(folder, fingerprint(digest, plan.seed + index, _start_of(plan, index)), say)
            for index in range(plan.batch)]


def _start_of(plan: Decision, index: int) -> int:
    """Which sample of the latents to start from is this one's."""
    if plan.start is None or plan.start.batch == 1:
        return 0
    return index
