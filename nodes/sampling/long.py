"""LTX23LongVideo: a video of any length, window by window, with a prompt for each part."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ...ltx23_core.geometry import window_problem
from ...ltx23_core.plan.recipes import FRAMES
from ..checks import guarded
from ..host import folders
from ..prompt.prompt import NEGATIVE_TOOLTIP, negative_text
from ..sockets import Model, Windows, advanced, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from ...ltx23_core.pipeline import Pipeline

OVERLAP, MAX_WINDOW = 24, 481


def _check_lengths(window: int | None, overlap: int | None) -> None:
    """None is linked, and checked when the node runs."""
    problem = window_problem(window, overlap)
    if problem:
        raise RequestError(*problem)


def _check_overlap(given: Mapping[str, Any]) -> None:
    window = given.get("window")
    if window_problem(window, None):  # which has its own sentence
        window = None
    _check_lengths(window, given.get("overlap"))


class LongVideoNode(io.ComfyNode):
    """Cut a long video into windows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23LongVideo", display_name="Long Video",
            aliases=["long", "loop", "infinite", "context windows", "segments", "prompt schedule"],
            description="Makes Sampler generate a video of any length: window by window, each going on from "
                        "the last second of the one before, in picture and sound. An interrupted run goes on "
                        "where it was.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load."),
                io.String.Input("prompts", multiline=True, dynamic_prompts=True, default="", tooltip=(
                    "Prompts of the parts, in order, divided by a line of three dashes (---). They share the "
                    "time evenly. Empty (default): Sampler's prompt throughout.")),
                io.Int.Input("window", default=FRAMES, min=17, max=MAX_WINDOW, step=8, tooltip=(
                    "Frames of a window: 8 k + 1. Longer holds together better and needs more memory. "
                    "Default 121, the official length of a clip; the model knows up to 481.")),
                io.Int.Input("overlap", default=OVERLAP, min=8, max=MAX_WINDOW - 9, step=8, tooltip=(
                    "Frames that a window takes over from the one before: a multiple of 8. More gives a "
                    "steadier movement across the seam and costs time. Default 24, one second; our choice.")),
                io.Float.Input("overlap_strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip=(
                    "How firmly the overlap is kept, 0 to 1. 1 (default): as it is. Lower lets the window "
                    "change it; both are then cross-faded.")),
                advanced(io.Boolean.Input("resume", default=True, tooltip=(
                    "Keeps finished windows in ComfyUI's user folder until the video is complete, so that "
                    "queueing the same settings again goes on there. Default on."))),
                advanced(io.String.Input("negative_prompt", optional=True, multiline=True, default="",
                                         placeholder="empty: the default list; none: no negative prompt",
                                         tooltip=NEGATIVE_TOOLTIP + " For all parts.")),
            ],
            outputs=[Windows.Output(display_name="windows", tooltip=(
                "For windows of Sampler, whose frames are then those of the whole video."))],
        )

    validate_inputs = before_the_run("window", checks=[
        lambda given: _check_lengths(given.get("window"), None), _check_overlap])

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, prompts: str, window: int, overlap: int, overlap_strength: float, resume: bool,
                negative_prompt: str = "") -> io.NodeOutput:
        """Collect the values; Sampler encodes the prompts once it knows that the run can be."""
        from ...ltx23_core.plan.latents import PromptText
        from ...ltx23_core.plan.windows import Windows as WindowSettings
        from ...ltx23_core.plan.windows import prompts_of

        negative = negative_text(negative_prompt)
        return io.NodeOutput(WindowSettings(
            length=window,
            overlap=overlap,
            strength=overlap_strength,
            prompts=tuple(PromptText(text, negative) for text in prompts_of(prompts)),
            resume=folders.resume_folder() if resume else None,
        ))
