"""LTX23ImageCondition: images that the video must show."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..ltx23_core.recipes import IMAGE_CRF
from .sockets import Conditions, advanced, schema

if TYPE_CHECKING:
    import torch

    from ..ltx23_core.conditioning.image import ImageCondition

MAX_FRAME = 10_000


class ImageConditionNode(io.ComfyNode):
    """Fix an image at a frame of the video; nodes of this kind chain."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23ImageCondition", display_name="Image Condition",
            aliases=["image to video", "i2v", "first frame", "keyframe"],
            description="Makes the video show an image at a frame: the first one for image to video. Chain several "
                        "through conditions.",
            inputs=[
                io.Image.Input("image", tooltip=(
                    "The image; of a batch the first is used. It is scaled to cover the video's size and cut in the "
                    "middle, so the same proportions keep all of it.")),
                io.Int.Input("frame", default=0, min=-MAX_FRAME, max=MAX_FRAME, tooltip=(
                    "Frame of the video that shows the image, counted from 0. 0 (default): the first, image to video. "
                    "Negative counts from the end: -1 is the last.")),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "How firmly the image is kept, 0 to 1. 1 (official default): as it is. Lower lets the model "
                    "change it, which also helps if the video hardly moves; describe the movement in the prompt too.")),
                advanced(io.Int.Input("crf", default=IMAGE_CRF, min=0, max=51, tooltip=(
                    "The image is compressed once as an H.264 frame before use, since the model learned from videos: "
                    "0 (off) to 51 (worst). Official default 33. A very clean image at low CRF may stay frozen."))),
                Conditions.Input("conditions", optional=True, tooltip="Earlier conditions; this one is added to them."),
            ],
            outputs=[Conditions.Output(display_name="conditions", tooltip="All conditions so far, for Sampler.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, frame: int, strength: float, crf: int,
                conditions: tuple[ImageCondition, ...] = ()) -> io.NodeOutput:
        """Add the image to the conditions, which themselves stay as they were."""
        from ..ltx23_core.conditioning.image import from_batch

        return io.NodeOutput((*conditions, from_batch(image[..., :3], frame, strength, crf)))
