"""What a user can set for a run: each option once, with its text, range and default. Imports no torch.

Nodes make their inputs of it, the command line its options and help, documents their tables (`option_of`).
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from ..errors import GeometryError, LTX23Error, RequestError
from ..geometry import Problem, joined, size_problem
from .recipes import FPS, FRAMES, HEIGHT, RECIPE_NAMES, RECIPES, SEED, WIDTH, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from .condition import Planned
    from .guidance import Guidance
    from .latents import Latents
    from .solver import Solver
    from .windows import Windows

STAGES, STREAMS = ("all", "first", "second"), ("both", "video", "audio")
AUDIO_STAGES, NOISE_DEVICES = ("auto", "first", "last"), ("auto", "cpu")
# Names that a user chooses among where the room that knows them needs torch; tests keep them equal to that room's.
ATTENTION = ("auto", "cudnn", "flash", "efficient", "math", "flash3", "sage")  # `ops.attention.BACKENDS`
DTYPES = ("auto", "bf16", "fp32")                            # `runtime.device.DTYPES`
WEIGHT_DTYPES = ("as stored", "fp8_e4m3fn", "fp8_scaled", "int8", "Q8_0", "Q4_K")  # `overlay.weight_dtype`
MATMUL_DTYPES = ("default", "fp8", "int8")                    # `arithmetic`
SIZES = ("width", "height", "frames", "fps")


_KINDS = {int: (Integral, "a whole number"), float: (Real, "a number")}


@dataclass(frozen=True)
class Option:
    """How one setting is shown and what it may be.

    Attributes:
        text: for people; a node's tooltip and the command line's help.
        kind: int, float or str.
        low, high: bounds of a number, both allowed.
        step: of a widget; a whole number with one is a size, which `geometry` judges further.
        choices: of a str.
        shown: what a widget begins with.
        unset: the value of a widget that means the recipe's own; None: no such value.
        rare: a widget that is shown on request.
        free: the bounds are the widget's alone.
    """

    text: str
    kind: type
    low: float = 0
    high: float = 0
    step: float | None = None
    choices: tuple[str, ...] = ()
    shown: object = None
    unset: object = None
    rare: bool = False
    free: bool = False

    def problem(self, name: str, value: object, widget: bool = False) -> Problem | None:
        """What is wrong with a value, or None; of a ``widget`` also where the bounds are a widget's alone."""
        if self.choices:
            if isinstance(value, str) and value in self.choices:
                return None
            return f"{name} is {value!r}", f"one of {', '.join(self.choices)}", f"Choose {self.shown}."
        wanted, words = _KINDS[self.kind]
        if isinstance(value, bool) or not isinstance(value, wanted):
            return f"{name} is {value!r}", words, f"Use {self.shown}."
        if math.isnan(value) or not self._within(value, widget):
            return f"{name} is {value}", f"{_number(self.low)} to {_number(self.high)}", f"Use {self.shown}."
        return None

    def _within(self, value: float, widget: bool) -> bool:
        """Below the low bound of a size `geometry` names the nearest one that can be."""
        if self.free and not widget:
            return True
        return value <= self.high and (value >= self.low or (self.kind is int and self.step is not None))


def _number(value: float) -> str:
    """A bound in words: whole numbers with all their digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _recipe_text() -> str:
    """What each recipe makes, a line each; docs/recipes.md has the sources."""
    lines = ["Choosing one fills in its values.",
             "auto (default): one_stage for dev weights; distilled ones: distilled, without an upsampler "
             "distilled_one_stage."]
    for recipe in RECIPES.values():
        lines.append(f"{recipe.name}: {recipe.width}x{recipe.height}, {_steps(recipe)} steps, seed {recipe.seed}")
    lines[-1] += ", with the schedule, solver and guidance that you link"
    return "\n".join(lines) + "."


def _steps(recipe: Recipe) -> str:
    """Steps of each stage, "30 + 3"."""
    steps = [str(recipe.steps)]
    for stage in recipe.stages[1:]:
        steps.append(str(len(stage.sigmas) - 1))
    return " + ".join(steps)


def _said(default: object, text: str, kind: type, **facts: Any) -> Any:  # noqa: ANN401 (a dataclass field)
    return field(default=default, metadata={"option": Option(text, kind, **facts)})


@dataclass(frozen=True)
class Settings:
    """What a run shall make and how. None is the recipe's own value.

    Those without a text here are objects of their own: see `conditioning`, `Guidance`, `Solver`, `Windows`. ``sigmas``
    is the schedule of the first stage that runs, in the place of ``steps``; ``start`` what it begins from.
    """

    recipe: str = _said("auto", _recipe_text(), str, choices=RECIPE_NAMES, shown="auto")
    width: int | None = _said(None, (
        "Width of the result in pixels: a multiple of 32, of 64 for recipes of two stages. Time grows faster "
        "than the area. Official default 768 for one stage; the model knows sizes up to 2048."),
        int, low=32, high=8192, step=32, shown=WIDTH)
    height: int | None = _said(None, (
        "Height of the result in pixels: a multiple of 32, of 64 for recipes of two stages. Official default "
        "512 for one stage."), int, low=32, high=8192, step=32, shown=HEIGHT)
    frames: int | None = _said(None, (
        "Number of frames: 8 k + 1 (1, 9, 17, … 121). Divided by fps gives the seconds; the model knows up "
        "to 20 s. Official default 121, about 5 s."), int, low=1, high=10_001, step=8, shown=FRAMES)
    fps: float | None = _said(None, (
        "Frames per second. Sets speed of movement and length of the sound, so give CreateVideo the same "
        "(the fps output). Official default 24."), float, low=1.0, high=120.0, step=1.0, shown=FPS, free=True)
    seed: int | None = _said(None, (
        "Start of the noise, 0 to 2^64 - 1. The same seed and settings give the same video. Official default "
        "10."),
        int, low=0, high=2**64 - 1, shown=SEED, free=True)
    steps: int | None = _said(None, (
        "Steps of the first stage that runs. 0 (default): the recipe's official number, 30 for one_stage and "
        "two_stage, 15 for hq; fewer is faster and rougher. Fixed schedules take no other number."),
        int, low=1, high=10_000, shown=0, unset=0, rare=True)
    conditions: Sequence[Planned] = ()
    guidance: Guidance | None = None
    sigmas: Sequence[float] | Tensor | None = None
    solver: Solver | None = None
    start: Latents | None = None
    stages: str = _said("all", (
        "Which stages of a recipe of two run here. all (default): both, upscaled in between. first, and in "
        "another Sampler behind Latent Upscale second, give the same result with the same settings and seed; "
        "width and height are those of the result in both."), str, choices=STAGES, shown="all", rare=True)
    streams: str = _said("both", (
        "What is made. both (default): video with sound. video: no sound, faster. audio: sound alone; frames "
        "and fps set its length, one stage runs."), str, choices=STREAMS, shown="both")
    audio_stage: str | None = _said(None, (
        "Whose sound is the result of two stages. auto (default): as official, the first stage's for "
        "two_stage and hq, the last one's for "
        "distilled."), str, choices=AUDIO_STAGES, shown="auto", unset="auto", rare=True)
    batch: int = _said(1, (
        "Number of results, with the seeds seed, seed + 1, … Each is exactly its single run; time grows with "
        "the number, memory does not. Default 1."), int, low=1, high=64, shown=1, rare=True)
    noise_device: str = _said("auto", (
        "Where noise is drawn. auto (default): on the device that computes, as official. cpu: the same noise "
        "for a seed on every machine."), str, choices=NOISE_DEVICES, shown="auto", rare=True)
    easy_cache: float = _said(0.0, (
        "EasyCache: leaves model calls out while little is expected to change, after the first 4. Lossy: the "
        "result changes more with a higher value. 0 (default): off. 0.05 to 0.2 is usual; distilled recipes "
        "gain little."), float, low=0.0, high=1.0, step=0.01, shown=0.0, rare=True)
    windows: Windows | None = None

    def check(self, size_step: int = 32) -> None:
        """Raise one error that tells every value that cannot be.

        Args:
            size_step: what width and height must be multiples of, as the recipe says.
        """
        error = refusal(vars(self), size_step)
        if error is not None:
            raise error

    @classmethod
    def of(cls, **given: Any) -> Settings:  # noqa: ANN401 (each setting its own type)
        """Settings from widgets, whose `Option.unset` becomes None."""
        for name, option in OPTIONS.items():
            if name in given and given[name] == option.unset:
                given[name] = None
        return cls(**given)


OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Settings) if each.metadata}


def size_step(recipe: str | None, streams: str | None = "both") -> int:
    """What width and height must be multiples of; what auto will be is known only to a model."""
    if recipe in RECIPES and streams != "audio":
        return RECIPES[recipe].size_step
    return 32


def wrong(values: Mapping[str, object], step: int = 32, widgets: bool = False) -> dict[str, Problem]:
    """What is wrong with each value by itself, by name; see `refusal`. A length that is too short counts as frames'."""
    found: dict[str, Problem] = {}
    sizes: dict[str, Any] = dict.fromkeys(SIZES)
    for name, value in values.items():
        if not _is_set(name, value):
            continue
        problem = OPTIONS[name].problem(name, value, widgets)
        if problem is None and name in SIZES:
            problem = size_problem(**dict.fromkeys(SIZES) | {name: value}, step=step)
            sizes[name] = value
        if problem is not None:
            found[name] = problem
            sizes[name] = None
    if "frames" not in found:
        late = size_problem(None, None, sizes["frames"], sizes["fps"])
        if late is not None:
            found["frames"] = late
    return found


def refusal(values: Mapping[str, object], step: int = 32, widgets: bool = False) -> LTX23Error | None:
    """One error that tells every value that cannot be, or None. None as a value is not checked.

    Args:
        values: by the names of `OPTIONS`, as widgets or `Settings` give them.
        step: what width and height must be multiples of.
        widgets: the values come from widgets, whose bounds are theirs alone for some (`Option.free`).
    """
    problems = []
    sound = dict.fromkeys(SIZES)  # those that `geometry` may judge: numbers within their bounds
    for name, value in values.items():
        if not _is_set(name, value):
            continue
        problem = OPTIONS[name].problem(name, value, widgets)
        if problem is not None:
            problems.append(problem)
        elif name in SIZES:
            sound[name] = value
    sizes = size_problem(**sound, step=step)
    told = joined([*problems, sizes])
    if told is None:
        return None
    if told == sizes:
        return GeometryError(*told)
    return RequestError(*told)


def _is_set(name: str, value: object) -> bool:
    """Whether a value is one to be checked: an option's, and not the word for the recipe's own."""
    return name in OPTIONS and value is not None and (OPTIONS[name].unset is None or value != OPTIONS[name].unset)
