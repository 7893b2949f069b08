"""LTX23ImageCondition, LTX23Keyframe: images that the video must show."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ...ltx23_core.plan.recipes import IMAGE_CRF
from ..checks import guarded
from ..sockets import advanced, schema
from ..validation import before_the_run
from .inputs import MAX_FRAME, chained, colours, output

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.conditioning.base import Condition

MAX_NUMBER = 1_000_000
EXAMPLES = {int: "0, 60, -1", float: "1.0, 0.8"}  # of a list of such numbers
PLACEMENTS = ["auto", "append"]
CRF_TOOLTIP = (
    "The image is compressed once as an H.264 frame before use, since the model learned from videos: 0 (off) "
    "to 51 (worst). Official default 33. A very clean image at low CRF may stay frozen.")


class ImageConditionNode(io.ComfyNode):
    """Fix an image at a frame of the video; nodes of this kind chain."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23ImageCondition", display_name="Image to Video (Image Condition)",
            aliases=["image to video", "i2v", "first frame", "keyframe"],
            description="Makes the video show an image at a frame: the first one for image to video. Chain "
                        "several through conditions.",
            inputs=[
                io.Image.Input("image", tooltip=(
                    "The image; of a batch the first is used. It is scaled to cover the video's size and cut "
                    "in the middle, so the same proportions keep all of it.")),
                io.Int.Input("frame", default=0, min=-MAX_FRAME, max=MAX_FRAME, tooltip=(
                    "Frame of the video that shows the image, counted from 0. 0 (default): the first, image "
                    "to video. Negative counts from the end: -1 is the last.")),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "How firmly the image is kept, 0 to 1. 1 (official default): as it is. Lower lets the "
                    "model change it, which also helps if the video hardly moves; describe the movement in "
                    "the prompt too.")),
                advanced(io.Int.Input("crf", default=IMAGE_CRF, min=0, max=51, tooltip=CRF_TOOLTIP)),
                chained(),
                advanced(io.Combo.Input("placement", optional=True, options=PLACEMENTS, default="auto",
                                        tooltip=(
                    "How frame 0 is placed. auto (default): it replaces the video's first frame, which then "
                    "is the image. append: it stands beside the video, as other frames always do and as the "
                    "official keyframe interpolation does; the first frame is made to follow it."))),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, image: torch.Tensor, frame: int, strength: float, crf: int,
                conditions: tuple[Condition, ...] = (), placement: str = "auto") -> io.NodeOutput:
        """Add the image to the conditions, which themselves stay as they were."""
        from ...ltx23_core.conditioning.image import from_batch

        return io.NodeOutput((*conditions, from_batch(colours(image), frame, strength, crf, placement)))


class KeyframeNode(io.ComfyNode):
    """Several images at frames of the video, as one batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Keyframe", display_name="Keyframes (pictures)",
            aliases=["keyframe interpolation", "first and last frame", "flf2v"],
            description="Makes the video pass through a batch of images, each at a frame number of its own.",
            inputs=[
                io.Image.Input("images", tooltip=(
                    "The images as one batch, in the order of the frame numbers. Each is scaled to cover the "
                    "video and cut in the middle.")),
                io.String.Input("at_frames", default="0, -1", tooltip=(
                    "One frame number for each image, with commas: 0 the first frame, -1 the last, as 0, 60, "
                    "-1. Default 0, -1: the first and the last.")),
                io.String.Input("strengths", default="1.0", tooltip=(
                    "How firmly the images are kept, 0 to 1: one number for all, or one for each with "
                    "commas. Official default 1.0.")),
                io.Combo.Input("placement", options=PLACEMENTS[::-1], default="append", tooltip=(
                    "append (default): as the official keyframe interpolation, all images stand beside the "
                    "video. auto: an image at frame 0 replaces the first frame, which then is the image.")),
                advanced(io.Int.Input("crf", optional=True, default=IMAGE_CRF, min=0, max=51,
                                      tooltip=CRF_TOOLTIP)),
                chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run("at_frames", "strengths", checks=[
        lambda given: numbers("at_frames", given.get("at_frames", "0"), int),
        lambda given: numbers("strengths", given.get("strengths", "1"), float)])

    @classmethod
    @guarded
    def execute(cls, images: torch.Tensor, at_frames: str, strengths: str, placement: str,
                crf: int = IMAGE_CRF, conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add one condition for each image."""
        from ...ltx23_core.conditioning.image import keyframes

        at = numbers("at_frames", at_frames, int)
        firmly = numbers("strengths", strengths, float)
        return io.NodeOutput((*conditions, *keyframes(colours(images), at, firmly, crf, placement)))


def numbers(what: str, text: str, kind: type[int] | type[float]) -> list[int] | list[float]:
    """The numbers of a list with commas; `RequestError` names what is no number."""
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)) or max(map(abs, found)) > MAX_NUMBER:
        raise RequestError(f"{what} is {text!r}", "numbers with commas between them",
                           f"Write it like {EXAMPLES[kind]}.")
    return found
