"""From a recipe and what the user chose instead to the stages that run."""
from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError
from ..geometry import video_grid
from .condition import Clip
from .guidance import Guidance
from .recipes import Recipe, Stage
from .settings import Settings
from .sigmas import as_sigmas, ltx2_schedule
from .solver import Solver


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
    def steps(self) -> int:
        """Steps from the first sigma to the last."""
        return len(self.sigmas) - 1

    @property
    def passes(self) -> int:
        """Largest number of forward passes that a denoiser call has."""
        guidance = self.guidance or Guidance()
        return max(guidance.passes, 1 + self.solver.uses_uncond)

    def carried(self, both: bool) -> tuple[int, int]:
        """`passes` that have (video, audio).

        The one without cross-modal attention has only the streams that ask for it, and is not there without ``both``.
        """
        guidance = self.guidance or Guidance()
        apart = guidance.modality_streams
        counts = []
        for stream in ("video", "audio"):
            counts.append(self.passes - int(bool(apart) and not (both and stream in apart)))
        return counts[0], counts[1]


def plan_stages(recipe: Recipe, settings: Settings, clip: Clip, layers: int, frames: int) -> tuple[StagePlan, ...]:
    """The stages of a run; what a setting leaves open is the recipe's.

    Args:
        recipe: gives every default.
        settings: ``guidance`` of the guided stages (in a recipe without guided ones, of its first stage; NAG acts in
            all), ``steps`` and ``sigmas`` of the first stage that runs, ``solver`` of every stage.
        clip: what is made; a clip without video has one stage, at any size.
        layers: blocks of the transformer, for the place of the STG block.
        frames: of a window, by which a schedule goes that follows the number of tokens.

    Raises:
        RequestError: settings that do not go together, or that the model cannot serve.
    """
    guidance = _guidance(recipe, settings, layers)
    loras = tuple(each.lora for each in recipe.stages)
    if not clip.video:
        loras = loras[:1]
    planned = []
    first = settings
    for number, stage in _chosen(recipe, settings.stages, clip):
        acts = guidance
        if guidance is not None and not stage.guided and (number > 1 or recipe.guided):
            acts = guidance.nag_alone()
        planned.append(StagePlan(
            number=number,
            shrink=stage.shrink,
            sigmas=_schedule(recipe, stage, clip, frames, first),
            solver=settings.solver or Solver(stage.solver),
            guidance=acts,
            loras=loras,
        ))
        first = Settings()  # steps and sigmas are those of the first stage that runs
    return tuple(planned)


def _guidance(recipe: Recipe, settings: Settings, layers: int) -> Guidance | None:
    """What acts in guided stages: the user's, with the recipe's own in the place of placeholders; or the recipe's."""
    official = None
    if recipe.guided:
        official = recipe.guidance(layers)
    if settings.guidance is None:
        return official
    resolved = settings.guidance.resolved(official)
    check_blocks(resolved, layers)
    return resolved


def _chosen(recipe: Recipe, stages: str, clip: Clip) -> list[tuple[int, Stage]]:
    """The recipe's stages that run, with their numbers from 1."""
    numbered = list(enumerate(recipe.stages, 1))
    if stages != "all" and len(numbered) == 1:
        raise RequestError(f"the {stages} stage of recipe {recipe.name} was asked for, which has one stage",
                           "a recipe of two stages, or stages: all", "Choose all, or a recipe of two stages.")
    if stages == "first" or not clip.video:
        return numbered[:1]
    if stages == "second":
        return numbered[1:]
    return numbered


def _schedule(recipe: Recipe, stage: Stage, clip: Clip, frames: int, settings: Settings) -> tuple[float, ...]:
    """Sigmas of a stage; ``settings`` are those of the first one, defaults for the others."""
    steps = settings.steps
    if settings.sigmas is not None:
        return tuple(as_sigmas(settings.sigmas))
    if stage.sigmas is None:
        count = steps
        if count is None:
            count = recipe.steps
        if recipe.latent_schedule and clip.video:
            tokens = video_grid(clip.width // stage.shrink, clip.height // stage.shrink, frames).tokens
            return tuple(ltx2_schedule(count, tokens))
        return tuple(ltx2_schedule(count))
    fixed = len(stage.sigmas) - 1
    if steps not in (None, fixed):
        raise RequestError(f"steps is {steps} with recipe {recipe.name}",
                           f"{fixed}, the sigmas that the weights were distilled for",
                           "Leave steps at the recipe's default, or give your own sigmas.")
    return tuple(as_sigmas(stage.sigmas))


def check_blocks(guidance: Guidance, layers: int) -> None:
    """Refuse an STG block that a transformer of so many blocks has not."""
    for params in guidance.params:
        wrong = [block for block in params.stg_blocks if not 0 <= block < layers]
        if wrong and params.uses_stg:
            raise RequestError(f"STG block {wrong[0]} of a transformer with {layers} blocks",
                               f"0 to {layers - 1}", "Use 28, the official block of the 48.")
