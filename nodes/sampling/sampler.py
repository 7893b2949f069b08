"""LTX23Sampler: from a prompt to the latents of video and sound."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.errors import GeometryError, RequestError
from ...ltx23_core.geometry import check_size, size_problem
from ...ltx23_core.plan.recipes import FPS, FRAMES, HEIGHT, RECIPE_NAMES, RECIPES, SEED, WIDTH
from ..host import progress, server
from ..latents import from_latents, to_latents
from ..prompt.prompt import NEGATIVE_TOOLTIP, negative_text
from ..sockets import Conditions, Context, Guidance, Model, Solver, Windows, advanced, schema

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.conditioning.base import Condition
    from ...ltx23_core.pipeline import Pipeline
    from ...ltx23_core.plan.context import PromptPair
    from ...ltx23_core.plan.guidance import Guidance as GuidanceValues
    from ...ltx23_core.plan.solver import Solver as SolverOptions
    from ...ltx23_core.plan.windows import Windows as WindowSettings

MAX_SIZE, MAX_FRAMES, MAX_STEPS, MAX_BATCH = 8192, 10_001, 1000, 64
STAGES, STREAMS = ["all", "first", "second"], ["both", "video", "audio"]
AUDIO_STAGES, NOISE_DEVICES = ["auto", "first", "last"], ["auto", "cpu"]
DEFAULT_PROMPT = ("A golden retriever runs along a sunlit beach and splashes through shallow waves, the camera "
                  "tracking beside it. Waves roll in softly, water splashes, the dog barks twice.")


def recipe_tooltip() -> str:
    """What each recipe is and where its defaults come from (`recipes.RECIPES`)."""
    lines = [f"{recipe.name}: {recipe.source}; {recipe.width}x{recipe.height}, seed {recipe.seed}."
             for recipe in RECIPES.values()]
    return "\n".join([
        "Choosing one fills in its sizes, seed and steps. auto (default): one_stage for a dev model; for a distilled "
        "one distilled, or distilled_one_stage without an upsampler.", *lines])


def recipe_values() -> dict[str, dict[str, float]]:
    """For the page: what choosing a recipe fills in."""
    return {recipe.name: {"width": recipe.width, "height": recipe.height, "frames": recipe.frames, "fps": recipe.fps,
                          "seed": recipe.seed, "steps": 0} for recipe in RECIPES.values()}


server.add_route("/ltx23/recipes", recipe_values)


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
                io.Combo.Input("recipe", options=list(RECIPE_NAMES), default="auto", tooltip=recipe_tooltip()),
                io.Int.Input("width", default=WIDTH, min=32, max=MAX_SIZE, step=32, tooltip=(
                    "Width of the result in pixels: a multiple of 32, of 64 for recipes of two stages. Time grows "
                    "faster than the area. Official default 768 for one stage; the model knows sizes up to 2048.")),
                io.Int.Input("height", default=HEIGHT, min=32, max=MAX_SIZE, step=32, tooltip=(
                    "Height of the result in pixels: a multiple of 32, of 64 for recipes of two stages. Official "
                    "default 512 for one stage.")),
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
                    "Steps of the first stage that runs. 0 (default): the recipe's official number, 30 for one_stage "
                    "and two_stage, 15 for hq; fewer is faster and rougher. Fixed schedules take no other number."))),
                Context.Input("context", optional=True, tooltip=(
                    "Encoded texts, from Prompt. Takes the place of both prompt fields here, and is not encoded again "
                    "when the seed changes.")),
                Conditions.Input("conditions", optional=True, tooltip=(
                    "What the result must show or sound like: images, clips, sound, regions to keep.")),
                Guidance.Input("guidance", optional=True, tooltip=(
                    "Strengths from Guidance. Without it: the recipe's official values.")),
                io.Sigmas.Input("sigmas", optional=True, tooltip=(
                    "Noise levels of the (first) stage, falling from 1 to 0. They take the place of the recipe's "
                    "schedule and of steps.")),
                advanced(io.String.Input("negative_prompt", optional=True, multiline=True, default="",
                                         placeholder="empty: the default list; none: no negative prompt",
                                         tooltip=NEGATIVE_TOOLTIP + " Ignored where context is linked.")),
                Solver.Input("solver", optional=True, tooltip=(
                    "How the steps are taken, from Solver. Without it: the recipe's own, Euler, or res_2s for hq.")),
                io.Latent.Input("start_video", optional=True, tooltip=(
                    "Video latent to begin from: for the second stage that of Latent Upscale; or for a schedule that "
                    "begins below 1.")),
                io.Latent.Input("start_audio", optional=True, tooltip="Audio latent that goes with start_video."),
                advanced(io.Combo.Input("stages", optional=True, options=STAGES, default="all", tooltip=(
                    "Which stages of a recipe of two run here. all (default): both, upscaled in between. first, and in "
                    "another Sampler behind Latent Upscale second, give the same result with the same settings and "
                    "seed; width and height are those of the result in both."))),
                io.Combo.Input("streams", optional=True, options=STREAMS, default="both", tooltip=(
                    "What is made. both (default): video with sound. video: no sound, faster. audio: sound alone; "
                    "frames and fps set its length, one stage runs.")),
                advanced(io.Combo.Input("audio_stage", optional=True, options=AUDIO_STAGES, default="auto", tooltip=(
                    "Whose sound is the result of two stages. auto (default): as official, the first stage's for "
                    "two_stage and hq, the last one's for distilled."))),
                advanced(io.Int.Input("batch", optional=True, default=1, min=1, max=MAX_BATCH, tooltip=(
                    "Number of results, with the seeds seed, seed + 1, … Each is exactly its single run; time grows "
                    "with the number, memory does not. Default 1."))),
                advanced(io.Combo.Input("noise_device", optional=True, options=NOISE_DEVICES, default="auto", tooltip=(
                    "Where noise is drawn. auto (default): on the device that computes, as official. cpu: the same "
                    "noise for a seed on every machine."))),
                Windows.Input("windows", optional=True, tooltip=(
                    "Samples a long video window by window, from Long Video; frames is then the length of the whole.")),
            ],
            outputs=[
                io.Latent.Output(display_name="video", tooltip=(
                    "Video latent, for Decode Video or Decode To File; nothing where only sound is made.")),
                io.Latent.Output(display_name="audio", tooltip=(
                    "Audio latent, for Decode Audio or Decode To File; nothing where only video is made.")),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for CreateVideo."),
            ],
        )

    @classmethod
    def validate_inputs(cls, recipe: str | None = None, width: int | None = None, height: int | None = None,
                        frames: int | None = None) -> bool | str:
        """Refuse sizes that cannot be made, naming the nearest that can; a linked input is None here."""
        if recipe is not None and recipe not in RECIPE_NAMES:
            return str(RequestError(f"recipe is {recipe!r}", f"one of {', '.join(RECIPE_NAMES)}", "Choose auto."))
        problem = size_problem(width, height, frames, None, _size_step(recipe or "auto"))
        return str(GeometryError(*problem)) if problem else True

    @classmethod
    def execute(cls, model: Pipeline, prompt: str, recipe: str, width: int, height: int, frames: int, fps: float,
                seed: int, steps: int, context: PromptPair | None = None, conditions: tuple[Condition, ...] = (),
                guidance: GuidanceValues | None = None, sigmas: torch.Tensor | None = None, negative_prompt: str = "",
                solver: SolverOptions | None = None, start_video: dict | None = None, start_audio: dict | None = None,
                stages: str = "all", streams: str = "both", audio_stage: str = "auto", batch: int = 1,
                noise_device: str = "auto", windows: WindowSettings | None = None) -> io.NodeOutput:
        """Encode the prompt if no context is linked, then sample."""
        chosen = model.recipe(recipe)
        check_size(width, height, frames, fps, 32 if streams == "audio" else chosen.size_step)
        if context is None:
            context = model.encode(prompt, negative_text(negative_prompt))
        latents = model.sample(
            context, recipe=recipe, width=width, height=height, frames=frames, fps=fps, seed=seed, steps=steps or None,
            guidance=guidance, conditions=conditions, sigmas=sigmas, solver=solver, stages=stages, streams=streams,
            start=from_latents(start_video, start_audio, frames, fps), batch=batch,
            audio_stage=None if audio_stage == "auto" else audio_stage, noise_device=noise_device, windows=windows,
            on_step=progress.step_progress(), preview=True)
        return io.NodeOutput(*to_latents(latents), float(latents.fps))
