"""A plan that can be run: a decision and the engine that it was made for."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..plan.decide import Decision
from ..plan.latents import Latents, PromptPair, PromptText
from .batch import run_batch
from .engine import Engine
from .progress import OnStep

log = logging.getLogger("ltx23")


@dataclass(frozen=True)
class Plan:
    """What `Pipeline.plan` gives. `str` says in a few lines what will happen; nothing is loaded until `run`.

    Attributes:
        decision: the run, with everything decided.
        engine: the pipeline.
    """

    decision: Decision
    engine: Engine

    def __str__(self) -> str:
        return str(self.decision)

    @torch.no_grad()
    def run(self, context: PromptPair, on_step: OnStep | None = None, *, preview: bool = False,
            say: Callable[[str], None] | None = None) -> Latents:
        """Sample.

        Args:
            context: of `Pipeline.encode`.
            on_step: called after each step with a `StepInfo`; what it raises ends the run.
            preview: fill `StepInfo.preview` (fits the preview map to the decoder once).
            say: told in words what a caller would like to know, such as what an earlier run had done.

        Returns:
            Latents on the CPU in the pipeline's dtype.

        Raises:
            OverlayError, WeightsError: files that cannot be used; OutOfMemoryError: a device that is too small.
        """
        line = self.engine.memory_line(self.decision)
        log.info("%s", line)
        if say is not None:
            say(line)
        decision = self._encoded()
        preview_map = None
        if preview and on_step is not None and self.decision.clip.video:
            preview_map = self.engine.preview_map()
        return run_batch(
            self.engine,
            decision,
            context,
            on_step=on_step,
            preview_map=preview_map,
            say=say,
        )

    def _encoded(self) -> Decision:
        """The decision with the prompts of windows encoded: a plan is made before anything is loaded."""
        timeline = self.decision.timeline
        texts = timeline.settings.prompts
        pairs = []
        for each in texts:
            if isinstance(each, PromptText):
                each = self.engine.encode(each.prompt, each.negative_prompt)
            pairs.append(each)
        settings = replace(timeline.settings, prompts=tuple(pairs))
        return replace(self.decision, timeline=replace(timeline, settings=settings))
