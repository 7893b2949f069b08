"""LTX23Sampler: from a prompt to the latents of video and sound."""
from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...ltx23_core.plan.recipes import RECIPES
from ...ltx23_core.plan.settings import Settings
from ..checks import guarded, left_out
from ..host import progress, server
from ..latents import from_latents, to_latents
from ..prompt.prompt import NEGATIVE_TOOLTIP, negative_text
from ..sockets import Conditions, Context, Guidance, Model, Solver, Windows, advanced, schema
from ..validation import before_the_run
from .steps import step_progress
from .widgets import judged, widget

if TYPE_CHECKING:
    from ...ltx23_core.pipeline import Pipeline
    from ...ltx23_core.plan.latents import PromptPair
    from ...ltx23_core.run.plan import Plan

log = logging.getLogger("ltx23")
SETTINGS = {each.name for each in dataclasses.fields(Settings)}
DEFAULT_PROMPT = ("A golden retriever runs along a sunlit beach and splashes through shallow waves, the "
                  "camera tracking beside it. Waves roll in softly, water splashes, the dog barks twice.")


def _empty(context: PromptPair | None, prompt: str, plan: Plan) -> str:
    """A line that says so where nothing is asked for."""
    if context is not None or prompt.strip() or plan.decision.timeline.settings.prompts:
        return ""
    log.warning("Sampler: the prompt is empty")
    return "\nThe prompt is empty: write one here, or is the Prompt node bypassed?"


def recipe_values() -> dict[str, dict[str, Any]]:
    """For the page: what choosing a recipe fills in, `size_step`, by which its sizes go, and what it needs."""
    names = ("width", "height", "frames", "fps", "seed")
    found = {}
    for recipe in RECIPES.values():
        needs = []
        if recipe.upscales:
            needs.append("upsampler_x2")
        if recipe.distils:
            needs.append("distilled_lora")
        values = {name: getattr(recipe, name) for name in (*names, "size_step")}
        found[recipe.name] = {**values, "steps": 0, "needs": needs}
    return found


server.add_route("/ltx23/recipes", recipe_values)


class SamplerNode(io.ComfyNode):
    """Run a recipe. Every default is the official one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Sampler", display_name="Sampler (video with sound)",
            aliases=["sample", "ksampler", "text to video", "t2v"],
            description="Generates video and sound together. Shows a preview at every step; cancel takes "
                        "effect within one transformer block.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True,
                                default=DEFAULT_PROMPT, tooltip=(
                    "What is seen and heard, in one flowing paragraph. Ignored where context is linked. At "
                    "most 1024 tokens, about 700 words.")),
                widget("recipe"), widget("width"), widget("height"), widget("frames"), widget("fps"),
                widget("seed", control_after_generate=True),
                widget("steps"),
                Context.Input("context", optional=True, lazy=True, tooltip=(
                    "Encoded texts, from Prompt. Takes the place of both prompt fields here, and is not "
                    "encoded again when the seed changes.")),
                Conditions.Input("conditions", optional=True, tooltip=(
                    "What the result must show or sound like: images, clips, sound, regions to keep.")),
                Guidance.Input("guidance", optional=True, tooltip=(
                    "Strengths from Guidance. Without it: the recipe's official values.")),
                io.Sigmas.Input("sigmas", optional=True, tooltip=(
                    "Noise levels of the (first) stage, falling from 1 to 0. They take the place of the "
                    "recipe's schedule and of steps.")),
                advanced(io.String.Input("negative_prompt", optional=True, multiline=True, default="",
                                         placeholder="empty: the default list; none: no negative prompt",
                                         tooltip=NEGATIVE_TOOLTIP + " Ignored where context is linked.")),
                Solver.Input("solver", optional=True, tooltip=(
                    "How the steps are taken, from Solver. Without it: the recipe's own, Euler, or res_2s "
                    "for hq.")),
                io.Latent.Input("start_video", optional=True, tooltip=(
                    "Video latent to begin from: for the second stage that of Latent Upscale; or for a "
                    "schedule that begins below 1.")),
                io.Latent.Input("start_audio", optional=True, tooltip="Audio latent that goes with "
                                                                      "start_video."),
                widget("stages", optional=True),
                widget("streams", optional=True),
                widget("audio_stage", optional=True),
                widget("batch", optional=True),
                widget("noise_device", optional=True),
                Windows.Input("windows", optional=True, tooltip=(
                    "Samples a long video window by window, from Long Video; frames is then the length of "
                    "the whole.")),
                widget("easy_cache", optional=True),
            ],
            outputs=[
                io.Latent.Output(display_name="video", tooltip=(
                    "Video latent, for Decode Video or Decode To File; nothing where only sound is made.")),
                io.Latent.Output(display_name="audio", tooltip=(
                    "Audio latent, for Decode Audio or Decode To File; nothing where only video is made.")),
                io.Float.Output(display_name="fps", tooltip="Frames per second, for CreateVideo."),
            ],
        )

    validate_inputs = before_the_run("recipe", judge=judged)

    @classmethod
    def check_lazy_status(cls, model: Pipeline, context: PromptPair | None | bool = False,
                          **given: Any) -> list[str]:  # noqa: ANN401 (each input its own type)
        """Refuse what cannot be before the node that encodes a linked context runs; then ask for it.

        The context is None where it is linked and not there yet, and False where nothing is linked.
        """
        if context is not None:
            return []
        for name in left_out(cls, given):
            del given[name]
        cls._planned(model, **given)
        return ["context"]

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, prompt: str, context: PromptPair | None = None,
                negative_prompt: str = "", **given: Any) -> io.NodeOutput:  # noqa: ANN401
        """Plan, which refuses what cannot be; then encode the prompt if no context is linked, and run."""
        begin = time.perf_counter()
        with progress.heard() as notes:
            plan = cls._planned(model, **given)
        progress.say("\n".join((f"{plan}{_empty(context, prompt, plan)}", *notes)))
        if context is None:
            context = model.encode(prompt, negative_text(negative_prompt))
        latents = plan.run(context, step_progress(plan.decision), preview=True, say=progress.note)
        progress.say(f"made in {time.perf_counter() - begin:.1f} s", "step")
        return io.NodeOutput(*to_latents(latents), float(latents.fps))

    @staticmethod
    def _planned(model: Pipeline, start_video: dict[str, Any] | None = None,
                 start_audio: dict[str, Any] | None = None, **given: Any) -> Plan:  # noqa: ANN401
        """The plan of the inputs that are settings."""
        settings = {name: value for name, value in given.items() if name in SETTINGS}
        start = from_latents(start_video, start_audio, settings["frames"], settings["fps"])
        return model.plan(Settings.of(**settings, start=start))
