"""LTX23Sampler: from a prompt to the latents of video and sound."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..ltx23_core.errors import GeometryError
from ..ltx23_core.geometry import check_size, size_problem
from ..ltx23_core.recipes import FPS, FRAMES, HEIGHT, RECIPE_NAMES, RECIPES, SEED, WIDTH
from . import host
from .prompt import NEGATIVE_TOOLTIP, negative_text
from .sockets import Conditions, Context, Guidance, Model, advanced, schema

if TYPE_CHECKING:
    import torch

    from ..ltx23_core.conditioning import ImageCondition
    from ..ltx23_core.pipeline import Pipeline
    from ..ltx23_core.sampling.guidance import Guidance as GuidanceValues
    from ..ltx23_core.sampling.run import PromptPair

MAX_SIZE, MAX_FRAMES, MAX_STEPS = 8192, 10_001, 1000
DEFAULT_PROMPT = ("A golden retriever runs along a sunlit beach and splashes through shallow waves, the camera "
                  "tracking beside it. Waves roll in softly, water splashes, the dog barks twice.")


def _size_step(recipe: str) -> int:
    """Width and height must be multiples of this; what auto will be is known only when the node runs."""
    return RECIPES[recipe].size_step if recipe in RECIPES else 32


class SamplerNode(io.ComfyNode):
    """Run a recipe. Every default is the official one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Sampler", display_name="Sampler", aliases=["sample", "ksampler", "text to video", "t2v"],
            description="Generates video and sound together. Shows a preview at every step; cancel takes effect "
                        "within one transformer block.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default=DEFAULT_PROMPT, tooltip=(
                    "What is seen and heard, in one flowing paragraph. Ignored where context is linked. At most 1024 "
                    "tokens, about 700 words.")),
                io.Combo.Input("recipe", options=list(RECIPE_NAMES), default="auto", tooltip=(
                    "one_stage: 30 guided steps at full size, for dev. distilled: 8 steps at half size, upscale x2, 3 "
                    "steps; needs an upsampler. distilled_one_stage: 8 steps at full size. auto (default): one_stage "
                    "for a dev model; for a distilled one distilled, or distilled_one_stage without an upsampler.")),
                io.Int.Input("width", default=WIDTH, min=32, max=MAX_SIZE, step=32, tooltip=(
                    "Width in pixels: a multiple of 32, of 64 for the recipe distilled. Time grows faster than the "
                    "area. Official default 768; the model knows sizes up to 2048.")),
                io.Int.Input("height", default=HEIGHT, min=32, max=MAX_SIZE, step=32, tooltip=(
                    "Height in pixels: a multiple of 32, of 64 for the recipe distilled. Official default 512.")),
                io.Int.Input("frames", default=FRAMES, min=1, max=MAX_FRAMES, step=8, tooltip=(
                    "Number of frames: 8 k + 1 (1, 9, 17, … 121). Divided by fps gives the seconds; the model knows "
                    "up to 20 s. Official default 121, about 5 s.")),
                io.Float.Input("fps", default=FPS, min=1.0, max=120.0, step=1.0, tooltip=(
                    "Frames per second. Sets speed of movement and length of the sound, so give CreateVideo the same "
                    "(the fps output). Official default 24.")),
                io.Int.Input("seed", default=SEED, min=0, max=2**64 - 1, control_after_generate=True, tooltip=(
                    "Start of the noise, 0 to 2^64 - 1. The same seed and settings give the same video. Official "
                    "default 10.")),
                advanced(io.Int.Input("steps", default=0, min=0, max=MAX_STEPS, tooltip=(
                    "Steps of the (first) stage. 0 (default): the recipe's official number. one_stage: 30; fewer is "
                    "faster and rougher. Distilled recipes have 8 and take no other number."))),
                Context.Input("context", optional=True, tooltip=(
                    "Encoded texts, from Prompt. Takes the place of both prompt fields here, and is not encoded again "
                    "when the seed changes.")),
                Conditions.Input("conditions", optional=True, tooltip="Images to show, from Image Condition."),
                Guidance.Input("guidance", optional=True, tooltip=(
                    "Strengths from Guidance. Without it: the recipe's official values.")),
                io.Sigmas.Input("sigmas", optional=True, tooltip=(
                    "Noise levels of the (first) stage, falling from 1 to 0. They take the place of the recipe's "
                    "schedule and of steps.")),
                advanced(io.String.Input("negative_prompt", optional=True, multiline=True, default="",
                                         placeholder="empty: the default list; none: no negative prompt",
                                         tooltip=NEGATIVE_TOOLTIP + " Ignored where context is linked.")),
            ],
            outputs=[
                io.Latent.Output(display_name="video", tooltip="Video latent, for Decode Video or Decode To File."),
                io.Latent.Output(display_name="audio", tooltip="Audio latent, for Decode Audio or Decode To File."),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for CreateVideo."),
            ],
        )

    @classmethod
    def validate_inputs(cls, recipe: str | None = None, width: int | None = None, height: int | None = None,
                        frames: int | None = None) -> bool | str:
        """Refuse sizes that cannot be made, naming the nearest that can; a linked input is None here."""
        if recipe is not None and recipe not in RECIPE_NAMES:
            return f"recipe is {recipe!r}. Expected: one of {', '.join(RECIPE_NAMES)}. Next: Choose auto."
        problem = size_problem(width, height, frames, None, _size_step(recipe or "auto"))
        return str(GeometryError(*problem)) if problem else True

    @classmethod
    def execute(cls, model: Pipeline, prompt: str, recipe: str, width: int, height: int, frames: int, fps: float,
                seed: int, steps: int, context: PromptPair | None = None,
                conditions: tuple[ImageCondition, ...] = (), guidance: GuidanceValues | None = None,
                sigmas: torch.Tensor | None = None, negative_prompt: str = "") -> io.NodeOutput:
        """Encode the prompt if no context is linked, then sample."""
        check_size(width, height, frames, fps, model.recipe(recipe).size_step)
        if context is None:
            context = model.encode(prompt, negative_text(negative_prompt))
        latents = model.sample(context, recipe=recipe, width=width, height=height, frames=frames, fps=fps, seed=seed,
                               steps=steps or None, guidance=guidance, conditions=conditions, sigmas=sigmas,
                               on_step=host.step_progress(), preview=True)
        shared = {"fps": latents.fps, "frames": latents.frames}
        return io.NodeOutput({"samples": host.intermediate(latents.video), **shared},
                             {"samples": host.intermediate(latents.audio), **shared}, float(latents.fps))
