"""LTX23Retake, LTX23Extend, LTX23Inpaint: parts of a clip made anew, or more of it."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ..checks import guarded
from ..sockets import schema
from ..validation import before_the_run
from .inputs import chained, clip_inputs, masks_of, output, rate_input, source_clip

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.conditioning.base import Condition

REGENERATE = ["both", "video", "audio"]
DIRECTIONS = ["forward", "backward"]
MAX_SECONDS, MAX_BLEND = 3600.0, 64


class RetakeNode(io.ComfyNode):
    """A stretch of time made anew."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Retake", display_name="Retake (redo a part)",
            aliases=["edit", "regenerate", "redo", "video to video"],
            description="Makes a stretch of time of a clip anew, in picture, sound or both; the rest is "
                        "held. Set the sampler's frames and fps to those of the clip.",
            inputs=[
                io.Float.Input("start", default=0.0, min=0.0, max=MAX_SECONDS, step=0.01, tooltip=(
                    "Seconds from the beginning where the stretch starts. Default 0. The grain is 8 frames "
                    "of picture and 0.04 s of sound.")),
                io.Float.Input("end", default=1.0, min=0.0, max=MAX_SECONDS, step=0.01, tooltip=(
                    "Seconds from the beginning where the stretch ends; beyond the clip means to its end. "
                    "Default 1.")),
                io.Combo.Input("regenerate", options=REGENERATE, default="both", tooltip=(
                    "What is made anew: both (default), video, or audio. The other one stays the clip's. "
                    "Without sound in the clip, sound is generated for all of it.")),
                *clip_inputs(), rate_input(), chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run("end", checks=[lambda given: _check_stretch(given.get("start"), given.get("end"))])

    @classmethod
    @guarded
    def execute(cls, start: float, end: float, regenerate: str, video: Any = None,  # noqa: ANN401
                images: torch.Tensor | None = None, audio: dict[str, Any] | None = None,
                source_fps: float = 0.0, conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the clip and the stretch."""
        from ...ltx23_core.conditioning.retake import Retake

        clip = source_clip(video, images, audio, source_fps)
        return io.NodeOutput((*conditions, Retake(clip, start, end, regenerate)))


def _check_stretch(start: float | None, end: float | None) -> None:
    """None is linked, and checked when the node runs."""
    if start is not None and end is not None and end <= start:
        raise RequestError(f"end is {end:g} and start is {start:g} seconds",
                           "a start of 0 or more and a later end", "Give start and end in seconds.")


class ExtendNode(io.ComfyNode):
    """A clip made longer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Extend", display_name="Extend (longer clip)",
            aliases=["continue", "longer", "extend video", "join"],
            description="Continues a clip forward or backward, with its sound. The sampler's frames are "
                        "those of the whole result. One node forward and one backward join two clips.",
            inputs=[
                io.Combo.Input("direction", options=DIRECTIONS, default="forward", tooltip=(
                    "forward (default): the clip is the beginning of the result. backward: the clip is its "
                    "end.")),
                io.Int.Input("blend", default=0, min=0, max=MAX_BLEND, tooltip=(
                    "Latent frames (8 frames each) of the clip next to the seam that may change, less and "
                    "less away from it, with the sound of the same time. 0 (default): the clip is held "
                    "exactly; 1 to 3 smooth a visible seam.")),
                *clip_inputs(length=(
                    "Shorter than the result; frames beyond 8 k + 1 are left out at the seam.")),
                rate_input(), chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, direction: str, blend: int, video: Any = None,  # noqa: ANN401
                images: torch.Tensor | None = None, audio: dict[str, Any] | None = None,
                source_fps: float = 0.0, conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the clip."""
        from ...ltx23_core.conditioning.extend import Extend

        clip = source_clip(video, images, audio, source_fps)
        return io.NodeOutput((*conditions, Extend(clip, direction, blend)))


class InpaintNode(io.ComfyNode):
    """Parts of the picture made anew."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Inpaint", display_name="Inpaint (masked part)",
            aliases=["mask", "outpaint", "replace", "remove"],
            description="Makes what a mask marks in a clip anew, in space and time; the rest is held. The "
                        "sound is generated; chain Source Audio to keep the clip's.",
            inputs=[
                io.Mask.Input("mask", tooltip=(
                    "What is made anew: 1 anew, 0 kept; one mask for the whole clip, or one for each of its "
                    "frames. The grain is 32x32 pixels and 8 frames: a cell is made anew if any of its "
                    "pixels is marked.")),
                *clip_inputs(sound=False), rate_input(), chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, mask: torch.Tensor, video: Any = None,  # noqa: ANN401
                images: torch.Tensor | None = None, source_fps: float = 0.0,
                conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the clip and the mask."""
        from ...ltx23_core.conditioning.inpaint import Inpaint

        clip = source_clip(video, images, None, source_fps, sound=False)
        return io.NodeOutput((*conditions, Inpaint(clip, masks_of(mask))))
