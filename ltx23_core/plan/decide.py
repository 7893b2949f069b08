"""From settings and what a model is to a run with everything decided: pure, and every refusal is made here.

Nothing is loaded and nothing is read, so that a graph or a command that cannot run ends before Gemma does.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config import TransformerConfig
from ..geometry import VideoGrid, video_grid
from ..memory.estimates import Tokens, sampling_bytes
from .condition import FREEZES, Clip, Planned
from .guidance import Guidance, without
from .latents import Latents
from .recipes import Recipe, choose_recipe
from .refusals import check_start
from .settings import Settings
from .stages import StagePlan, plan_stages
from .together import check_conditions
from .windows import Timeline, Windows, largest_call

ENCODERS = {"video": "video_encoder", "audio": "audio_encoder"}  # component that a condition on a stream needs


@dataclass(frozen=True)
class ModelFacts:
    """What of a model a plan depends on.

    Attributes:
        variant: "dev" or "distilled".
        components: names of what the overlay has.
        config: of the transformer.
        bytes_per_value: of activations, 2 for bfloat16.
        fused: Triton's kernels are used, which keep less in between.
        recorded: up to how many video tokens a forward may be recorded; 0: none is.
    """

    variant: str
    components: Sequence[str]
    config: TransformerConfig
    bytes_per_value: int
    fused: bool = True
    recorded: int = 0


@dataclass(frozen=True)
class Decision:
    """A run with everything decided; `str` says it in a few lines.

    Attributes:
        recipe: with all its defaults.
        clip: what is made.
        seed: of the first sample.
        batch: samples.
        stages: those that run, in order.
        conditions: in the order in which they are applied.
        timeline: the windows of each stage; an ordinary run has one.
        start: latents that the first stage here begins from.
        keep_first_audio: the sound of the first stage here is the result.
        noise_device: "auto" or "cpu".
        easy_cache: threshold of `sampling.easy_cache`; 0: off.
        needs: components that must be there.
        activation_bytes: of the stage that needs most, beside the weights.
    """

    recipe: Recipe
    clip: Clip
    seed: int
    batch: int
    stages: tuple[StagePlan, ...]
    conditions: tuple[Planned, ...]
    timeline: Timeline
    start: Latents | None
    keep_first_audio: bool
    noise_device: str
    easy_cache: float
    needs: tuple[str, ...]
    activation_bytes: int

    @property
    def steps(self) -> int:
        """Steps of one sample, over all stages and windows."""
        return sum(stage.steps for stage in self.stages) * len(self.timeline.windows)

    def grid(self, stage: StagePlan) -> VideoGrid:
        """Latent grid of the whole clip at a stage's size."""
        return video_grid(self.clip.width // stage.shrink, self.clip.height // stage.shrink, self.clip.frames)

    def __str__(self) -> str:
        return "\n".join([self._what(), *map(self._stage, self.stages)])

    def _what(self) -> str:
        clip, windows = self.clip, self.timeline.windows
        parts = [f"{clip.frames} frames at {float(clip.fps):g} fps ({clip.seconds:.2f} s)", f"seed {self.seed}"]
        if clip.video:
            parts.insert(0, f"{clip.width}x{clip.height}")
        if self.batch > 1:
            parts[-1] += f" to {self.seed + self.batch - 1}"
        if not clip.audio:
            parts.append("no sound")
        if not clip.video:
            parts.append("sound alone")
        if len(windows) > 1:
            parts.append(f"{len(windows)} windows of {windows[0].frames} latent frames")
        return f"{self.recipe.name}: {', '.join(parts)}; {self.activation_bytes / 1e9:.2f} GB beside the weights"

    def _stage(self, stage: StagePlan) -> str:
        parts = [f"{stage.steps} steps of {stage.solver.name}"]
        if self.clip.video:
            parts.insert(0, f"{self.clip.width // stage.shrink}x{self.clip.height // stage.shrink}")
        parts.append(f"{stage.passes} passes a step" if stage.passes > 1 else "1 pass a step")
        parts.append(f"sigma {stage.sigmas[0]:g} to {stage.sigmas[-1]:g}")
        return f"stage {stage.number}: {', '.join(parts)}"


def decide(settings: Settings, model: ModelFacts) -> Decision:
    """The run that settings mean for a model.

    Raises:
        GeometryError, RequestError: settings that cannot be, alone, together or on these weights; MediaError: a
            condition's material that cannot be used.
    """
    settings.check()
    recipe = choose_recipe(settings.recipe, model.variant, model.components)
    clip = clip_of(settings, recipe)
    conditions = check_conditions(settings.conditions, clip)
    windows = settings.windows or Windows(clip.frames)
    timeline = windows.over(clip)
    stages = plan_stages(recipe, settings, clip, model.config.layers, timeline.frames)
    check_start(settings.start, clip, stages[0], settings.batch)
    return Decision(
        recipe=recipe,
        clip=clip,
        seed=_or(settings.seed, recipe.seed),
        batch=settings.batch,
        stages=stages,
        conditions=conditions,
        timeline=timeline,
        start=settings.start,
        keep_first_audio=_audio_stage(settings, recipe) == "first",
        noise_device=settings.noise_device,
        easy_cache=settings.easy_cache,
        needs=_needs(stages, conditions),
        activation_bytes=max(_bytes(stage, clip, timeline, conditions, model) for stage in stages),
    )


def clip_of(settings: Settings, recipe: Recipe) -> Clip:
    """What is made; `GeometryError` for a size that cannot be with this recipe."""
    video = settings.streams != "audio"
    clip = Clip(
        width=_or(settings.width, recipe.width),
        height=_or(settings.height, recipe.height),
        frames=_or(settings.frames, recipe.frames),
        fps=_or(settings.fps, recipe.fps),
        video=video,
        audio=settings.streams != "video",
        shrink=recipe.stages[0].shrink,
    )
    step = recipe.size_step if video else 32
    Settings(width=clip.width, height=clip.height, frames=clip.frames, fps=clip.fps).check(step)
    return clip


def _audio_stage(settings: Settings, recipe: Recipe) -> str:
    """Whose sound is the result, "first" or "last"."""
    if settings.audio_stage in (None, "auto"):
        return recipe.audio_stage
    return settings.audio_stage


def _needs(stages: Sequence[StagePlan], conditions: Sequence[Planned]) -> tuple[str, ...]:
    """Components that the run asks for beside the prompt's."""
    names = ["transformer"]
    if len({stage.shrink for stage in stages}) > 1:
        names.append("upsampler_x2")
    for condition in conditions:
        names.extend(map(ENCODERS.get, getattr(condition, "roles", {})))
    return tuple(dict.fromkeys(names))


def _bytes(stage: StagePlan, clip: Clip, timeline: Timeline, conditions: Sequence[Planned],
           model: ModelFacts) -> int:
    """Activations of a call over the largest window."""
    grid = video_grid(clip.width // stage.shrink, clip.height // stage.shrink, clip.frames)
    frozen = set()
    for condition in conditions:
        for stream, role in getattr(condition, "roles", {}).items():
            if role == FREEZES:
                frozen.add(stream)
    stage = replace(stage, guidance=without(stage.guidance, frozen))
    call = largest_call(conditions, clip, grid, stage.number, timeline)
    return stage_bytes(model, stage, call)


def stage_bytes(model: ModelFacts, stage: StagePlan, call: Tokens) -> int:
    """Activations of one call of a stage."""
    guidance, nag, alone = stage.guidance, False, (False, False)
    if guidance is not None:
        nag = guidance.nag_alone() is not None
        alone = guidance.video is None and guidance != Guidance(), guidance.audio is None and guidance != Guidance()
    return sampling_bytes(
        model.config,
        video_tokens=call.video,
        audio_tokens=call.audio,
        passes=stage.carried(both=bool(call.video and call.audio)),
        batch=1,
        bytes_per_value=model.bytes_per_value,
        nag=nag,
        masked=call.masked,
        fused=model.fused,
        levels=call.levels,
        positive_alone=alone,
        recorded=bool(model.recorded) and call.video <= model.recorded,
    )


def _or(value: object, default: object) -> object:
    return default if value is None else value
