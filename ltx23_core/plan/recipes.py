"""Recipes: named presets of the official pipelines, each default with its source (spec/07 §2, §6, §7)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import RequestError
from .guidance import Guidance, GuiderParams

# Official one-stage defaults (LTX_2_3_PARAMS, spec/07 §6).
WIDTH, HEIGHT, FRAMES, FPS, SEED, STEPS = 768, 512, 121, 24.0, 10, 30
IMAGE_CRF = 33
# Official constants of the distilled weights (spec/07 §2).
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
STAGE_2_SIGMAS = (0.909375, 0.725, 0.421875, 0.0)
TILED_STAGE_2_SIGMAS = (0.625, 0.4, 0.0)  # of the official multi-GPU stage 2
OFFICIAL_STG_BLOCK, OFFICIAL_LAYERS = 28, 48
# Guidance of LTX_2_3_PARAMS and LTX_2_3_HQ_PARAMS (spec/07 §6): cfg, stg, modality, rescale, STG blocks.
OFFICIAL_VIDEO = GuiderParams(3.0, 1.0, 3.0, 0.7, (OFFICIAL_STG_BLOCK,))
OFFICIAL_AUDIO = GuiderParams(7.0, 1.0, 3.0, 0.7, (OFFICIAL_STG_BLOCK,))
HQ_VIDEO, HQ_AUDIO = GuiderParams(3.0, 0.0, 3.0, 0.45), GuiderParams(7.0, 0.0, 3.0, 1.0)

# Our own wording of what the official list names: defects of picture, anatomy, motion and sound (spec/07 §6).
DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurred, out of focus, overexposed, underexposed, washed-out colours, heavy grain, "
    "compression artefacts, flicker, jitter, ghosting, warped background, deformed body, extra limbs, "
    "malformed hands, fused fingers, distorted face, unnatural skin, frozen picture, abrupt cuts, sliding "
    "feet, fade from black, fade to black, subtitles, captions, watermark, logo, blurred box, muffled sound, "
    "hiss, clipping, echo, robotic voice, speech out of sync with the lips, sentence cut short, unwanted "
    "music")


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        sigmas: fixed schedule; None: the LTX2 schedule with the recipe's steps.
        guided: whether guidance acts, or the conditional pass alone.
        solver: a name of `sampling.solve.SOLVERS`.
        lora: strength of the overlay's distilled LoRA, on dev weights only.
        shrink: the stage runs at the video's width and height divided by this.
    """

    sigmas: tuple[float, ...] | None = None
    guided: bool = False
    solver: str = "euler"
    lora: float = 0.0
    shrink: int = 1


@dataclass(frozen=True)
class Recipe:
    """One way of sampling, with all its defaults.

    Attributes:
        name: what users choose.
        stages: run one after the other, with the x2 latent upscaler between a stage and a larger one.
        source: where the defaults come from, for people.
        width, height: pixels of the result.
        steps: of the first stage; a fixed schedule takes no other number.
        seed: of the noise.
        latent_schedule: the LTX2 schedule follows the first stage's number of tokens, not the fixed 4096.
        video, audio: guidance of the guided stage, with the STG block of the 48-block model; None: none.
        audio_stage: whose sound is the result: "first" or "last".
        frames, fps: length and rate.
    """

    name: str
    stages: tuple[Stage, ...]
    source: str
    width: int = WIDTH
    height: int = HEIGHT
    steps: int = STEPS
    seed: int = SEED
    latent_schedule: bool = False
    video: GuiderParams | None = OFFICIAL_VIDEO
    audio: GuiderParams | None = OFFICIAL_AUDIO
    audio_stage: str = "last"
    frames: int = FRAMES
    fps: float = FPS

    @property
    def size_step(self) -> int:
        """What width and height must be multiples of: 64 where a stage runs at half size."""
        return 32 * max(stage.shrink for stage in self.stages)

    @property
    def guided(self) -> bool:
        """Whether the first stage is guided."""
        return self.stages[0].guided

    @property
    def upscales(self) -> bool:
        """Whether the latent upscaler is needed."""
        return self.stages[0].shrink != self.stages[-1].shrink

    @property
    def distils(self) -> bool:
        """Whether a stage needs distilled weights, or on dev weights the distilled LoRA."""
        return any(stage.lora for stage in self.stages)

    def guidance(self, layers: int) -> Guidance:
        """The recipe's guidance for a model of this many blocks: STG acts at the same depth."""
        def placed(params: GuiderParams | None) -> GuiderParams | None:
            return params and replace(params, stg_blocks=tuple(stg_block(layers, block) for block in params.stg_blocks))

        return Guidance(placed(self.video), placed(self.audio))


_GUIDED, _REFINE = Stage(guided=True), Stage(STAGE_2_SIGMAS, lora=1.0)
_HQ = (Stage(guided=True, solver="res_2s", lora=0.25, shrink=2), Stage(STAGE_2_SIGMAS, solver="res_2s", lora=0.5))
_DISTILLED = Stage(DISTILLED_SIGMAS, lora=1.0)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe("one_stage", (_GUIDED,), "official one-stage pipeline (LTX_2_3_PARAMS): 30 guided Euler steps"),
    Recipe("two_stage", (replace(_GUIDED, shrink=2), _REFINE),
           "official two-stage pipeline: 30 guided Euler steps at half size, x2 latent upscale, 3 steps with "
           "the distilled LoRA; the sound is stage 1's", 1536, 1024, audio_stage="first"),
    Recipe("hq", _HQ,
           "official HQ pipeline (LTX_2_3_HQ_PARAMS): 15 guided res_2s steps at half size with the distilled "
           "LoRA at 0.25, x2 latent upscale, 3 res_2s steps with it at 0.5; the sound is stage "
           "1's", 1920, 1088, 15,
           latent_schedule=True, video=HQ_VIDEO, audio=HQ_AUDIO, audio_stage="first"),
    Recipe("distilled", (replace(_DISTILLED, shrink=2), _REFINE),
           "official distilled pipeline: 8 steps at half size, x2 latent upscale, 3 steps", 1536, 1024, 8),
    Recipe("distilled_one_stage", (_DISTILLED,), "the first stage of the official distilled pipeline, at "
                                                 "full size",
           steps=8),
    Recipe("sglang", (_GUIDED,), "sglang's LTX23SamplingParams: the official one-stage values with seed "
                                 "42", seed=42),
    Recipe("sglang_hq", _HQ,
           "sglang's LTX23HQSamplingParams: the official HQ values with seed 42 and the sound of stage "
           "2", 1920, 1088,
           15, 42, True, HQ_VIDEO, HQ_AUDIO),
    Recipe("custom", (Stage(guided=True),),
           "one stage at full size with what you link: schedule, solver, guidance (none linked: none), LoRAs",
           video=None, audio=None),
)}
RECIPE_NAMES: tuple[str, ...] = ("auto", *RECIPES)


def choose_recipe(name: str, variant: str, components: Sequence[str]) -> Recipe:
    """The recipe of a name; "auto" goes by the weights: dev -> one_stage, distilled -> distilled, or
    distilled_one_stage where the overlay has no x2 upscaler.

    Raises:
        RequestError: an unknown name, or a recipe that these weights cannot serve.
    """
    if name not in RECIPE_NAMES:
        raise RequestError(f"recipe is {name!r}", f"one of {', '.join(RECIPE_NAMES)}", "Choose auto.")
    upscaler = "upsampler_x2" in components
    if name == "auto":
        distilled = "distilled" if upscaler else "distilled_one_stage"
        name = "one_stage" if variant == "dev" else distilled
    recipe = RECIPES[name]
    if recipe.distils and variant == "dev" and "distilled_lora" not in components:
        raise RequestError(
            f"recipe {name} was asked of dev weights without the distilled LoRA",
            "distilled weights, or dev weights with ltx-2.3-22b-distilled-lora-384-1.1.safetensors in the "
            "overlay",
            "Choose recipe one_stage, add the LoRA to the overlay, or set the overlay's variant to distilled "
            "if the file is a renamed distilled checkpoint.")
    if recipe.upscales and not upscaler:
        raise RequestError(
            f"recipe {name} upscales between its stages and the overlay has no x2 latent upscaler",
            "ltx-2.3-spatial-upscaler-x2-1.1.safetensors (1.0 GB, Lightricks/LTX-2.3) in "
            "models/latent_upscale_models",
            "Add it to the overlay, or choose a recipe of one stage: one_stage or distilled_one_stage.")
    return recipe


def stg_block(layers: int, block: int = OFFICIAL_STG_BLOCK) -> int:
    """Block that STG perturbs: the official 28 of 48, at the same depth in a smaller model."""
    return block * layers // OFFICIAL_LAYERS


def official_guidance(layers: int) -> Guidance:
    """Guidance of the official dev pipelines (LTX_2_3_PARAMS, spec/07 §6)."""
    return RECIPES["one_stage"].guidance(layers)
