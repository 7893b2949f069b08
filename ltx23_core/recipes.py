"""Recipes: named presets of the official pipelines, each default with its source (spec/07 §2, §6, §7)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import RequestError
from .sampling.guidance import Guidance, GuiderParams

# Official one-stage defaults (LTX_2_3_PARAMS, spec/07 §6); the distilled recipes share size, frames and rate.
WIDTH, HEIGHT, FRAMES, FPS, SEED, STEPS = 768, 512, 121, 24.0, 10, 30
IMAGE_CRF = 33
# Official constants of the distilled weights (spec/07 §2).
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
STAGE_2_SIGMAS = (0.909375, 0.725, 0.421875, 0.0)
TILED_STAGE_2_SIGMAS = (0.625, 0.4, 0.0)  # of the official multi-GPU stage 2
OFFICIAL_STG_BLOCK, OFFICIAL_LAYERS = 28, 48

# Our own wording of what the official list names: defects of picture, anatomy, motion and sound (spec/07 §6).
DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurred, out of focus, overexposed, underexposed, washed-out colours, heavy grain, compression "
    "artefacts, flicker, jitter, ghosting, warped background, deformed body, extra limbs, malformed hands, fused "
    "fingers, distorted face, unnatural skin, frozen picture, abrupt cuts, sliding feet, fade from black, fade to "
    "black, subtitles, captions, watermark, logo, blurred box, muffled sound, hiss, clipping, echo, robotic voice, "
    "speech out of sync with the lips, sentence cut short, unwanted music")


@dataclass(frozen=True)
class Recipe:
    """One way of sampling.

    Attributes:
        name: what users choose.
        guided: whether the official guidance acts (dev weights) or the conditional pass alone (distilled weights).
        stage_1: fixed sigmas of the first stage; None: the LTX2 schedule with `STEPS` steps.
        stage_2: sigmas of the second stage at twice the size; None: there is one stage.
        source: where the defaults come from.
    """

    name: str
    guided: bool
    stage_1: tuple[float, ...] | None
    stage_2: tuple[float, ...] | None
    source: str

    @property
    def size_step(self) -> int:
        """What width and height must be multiples of: 64 where the first stage runs at half size."""
        return 32 if self.stage_2 is None else 64

    @property
    def steps(self) -> int:
        """Default steps of the first stage."""
        return STEPS if self.stage_1 is None else len(self.stage_1) - 1


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe("one_stage", True, None, None, "official one-stage pipeline: 30 guided Euler steps"),
    Recipe("distilled", False, DISTILLED_SIGMAS, STAGE_2_SIGMAS,
           "official distilled pipeline: 8 steps at half size, x2 latent upscale, 3 steps"),
    Recipe("distilled_one_stage", False, DISTILLED_SIGMAS, None,
           "the first stage of the official distilled pipeline, at full size"),
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
        name = "one_stage" if variant == "dev" else "distilled" if upscaler else "distilled_one_stage"
    recipe = RECIPES[name]
    if not recipe.guided and variant == "dev" and "distilled_lora" not in components:
        raise RequestError(
            f"recipe {name} was asked of dev weights without the distilled LoRA",
            "distilled weights, or dev weights with ltx-2.3-22b-distilled-lora-384-1.1.safetensors in the overlay",
            "Choose recipe one_stage, add the LoRA to the overlay, or set the overlay's variant to distilled if the "
            "file is a renamed distilled checkpoint.")
    if recipe.stage_2 and not upscaler:
        raise RequestError(
            f"recipe {name} upscales between its stages and the overlay has no x2 latent upscaler",
            "ltx-2.3-spatial-upscaler-x2-1.1.safetensors (1.0 GB, Lightricks/LTX-2.3) in models/latent_upscale_models",
            "Add it to the overlay, or choose recipe distilled_one_stage.")
    return recipe


def stg_block(layers: int) -> int:
    """Block that STG perturbs: the official 28 of 48, at the same depth in a smaller model."""
    return OFFICIAL_STG_BLOCK * layers // OFFICIAL_LAYERS


def official_guidance(layers: int) -> Guidance:
    """Guidance of the official dev pipelines (LTX_2_3_PARAMS, spec/07 §6)."""
    blocks = (stg_block(layers),)
    return Guidance(GuiderParams(3.0, 1.0, 3.0, 0.7, blocks), GuiderParams(7.0, 1.0, 3.0, 0.7, blocks))
