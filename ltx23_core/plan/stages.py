"""From a recipe and what the user chose instead to the stages that run."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import RequestError
from ..geometry import video_grid
from .condition import Clip
from .guidance import Guidance
from .recipes import Recipe, Stage
from .sigmas import as_sigmas, ltx2_schedule
from .solver import Solver

STAGES = ("all", "first", "second")


@dataclass(frozen=True)
class StagePlan:
    """One stage with everything decided.

    Attributes:
        number: in the recipe, from 1.
        shrink: width and height are divided by this.
        sigmas: schedule.
        solver: and its options.
        guidance: None: the conditional pass alone.
        loras: strength of the distilled LoRA in each stage of the recipe, whichever of them run; 0: none.
    """

    number: int
    shrink: int
    sigmas: tuple[float, ...]
    solver: Solver
    guidance: Guidance | None
    loras: tuple[float, ...]

    @property
    def passes(self) -> int:
        """Largest number of forward passes that a denoiser call has."""
        guided = 1 if self.guidance is None else self.guidance.passes
        return max(guided, 2) if self.solver.uses_uncond else guided


def plan_stages(recipe: Recipe, clip: Clip, layers: int, *, stages: str = "all", steps: int | None = None,
                guidance: Guidance | None = None, sigmas: Sequence[float] | Tensor | None = None,
                solver: Solver | None = None) -> tuple[StagePlan, ...]:
    """The stages of a run; what is None is the recipe's.

    Args:
        recipe: gives every default.
        clip: what is made; a clip without video has one stage, at any size.
        layers: blocks of the transformer, for the place of the STG block.
        stages: one of `STAGES`: the whole recipe, or one stage of it.
        steps, sigmas: of the first stage that runs.
        guidance: of the guided stages; in a recipe without guided ones, of its first stage. NAG acts in all.
        solver: of every stage that runs.

    Raises:
        RequestError: settings that do not go together, or that the model cannot serve.
    """
    chosen = list(enumerate(recipe.stages, 1))
    if stages not in STAGES:
        raise RequestError(f"stages is {stages!r}", f"one of {', '.join(STAGES)}", "Choose all.")
    if stages != "all" and len(chosen) == 1:
        raise RequestError(f"the {stages} stage of recipe {recipe.name} was asked for, which has one stage",
                           "a recipe of two stages, or stages: all", "Choose all, or a recipe of two stages.")
    chosen = chosen[:1] if stages == "first" or not clip.video else chosen[1:] if stages == "second" else chosen
    official = recipe.guidance(layers) if recipe.guided else None
    guidance = official if guidance is None else guidance.resolved(official)
    _check_blocks(guidance, layers)
    loras = tuple(stage.lora for stage in (recipe.stages if clip.video else recipe.stages[:1]))
    planned = []
    for position, (number, stage) in enumerate(chosen):
        own = (steps, sigmas) if position == 0 else (None, None)
        acts = stage.guided or (number == 1 and not recipe.guided)
        planned.append(StagePlan(number, stage.shrink, tuple(_schedule(recipe, stage, clip, *own)),
                                 solver or Solver(stage.solver), guidance if acts or guidance is None
                                 else guidance.nag_alone(), loras))
    return tuple(planned)


def _schedule(recipe: Recipe, stage: Stage, clip: Clip, steps: int | None,
              sigmas: Sequence[float] | Tensor | None) -> list[float]:
    if sigmas is not None:
        return as_sigmas(sigmas)
    if stage.sigmas is None:
        count = recipe.steps if steps is None else steps
        if recipe.latent_schedule and clip.video:
            tokens = video_grid(clip.width // stage.shrink, clip.height // stage.shrink, clip.frames).tokens
            return ltx2_schedule(count, tokens)
        return ltx2_schedule(count)
    fixed = len(stage.sigmas) - 1
    if steps not in (None, fixed):
        raise RequestError(f"steps is {steps} with recipe {recipe.name}",
                           f"{fixed}, the sigmas that the weights were distilled for",
                           "Leave steps at the recipe's default, or give your own sigmas.")
    return as_sigmas(stage.sigmas)


def _check_blocks(guidance: Guidance | None, layers: int) -> None:
    for params in guidance.params if guidance else ():
        wrong = [block for block in params.stg_blocks if not 0 <= block < layers]
        if wrong and params.uses_stg:
            raise RequestError(f"STG block {wrong[0]} of a transformer with {layers} blocks",
                               f"0 to {layers - 1}", "Use 28, the official block of the 48.")
