"""LTX23LatentUpscale: a larger, or a smoother, video latent."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..checks import guarded
from ..host import memory
from ..latents import samples_of
from ..sockets import Model, schema
from ..validation import before_the_run

if TYPE_CHECKING:
    from ...ltx23_core.pipeline import Pipeline

KINDS = ["x2", "x1.5", "temporal_x2"]


class LatentUpscaleNode(io.ComfyNode):
    """Enlarge a video latent with one of the model's latent upscalers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23LatentUpscale", display_name="Latent Upscale",
            aliases=["upscaler", "latent upsampler", "second stage", "spatial upscale", "temporal upscale"],
            description="Enlarges the video latent between two stages, or doubles its frame rate. A second "
                        "Sampler then adds the detail.",
            inputs=[
                Model.Input("model", tooltip="The model, from Load. Its overlay must have the upscaler."),
                io.Latent.Input("video", tooltip="Video latent, from Sampler."),
                io.Combo.Input("kind", options=KINDS, default="x2", tooltip=(
                    "x2 (default, of the official two-stage recipes): width and height doubled. x1.5: one "
                    "and a half times. temporal_x2: 2 F - 1 latent frames at twice the frame rate.")),
            ],
            outputs=[
                io.Latent.Output(display_name="video", tooltip="The larger latent, for start_video of "
                                                               "Sampler."),
                io.Float.Output(display_name="fps", tooltip="Its frame rate; doubled by temporal_x2."),
            ],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, model: Pipeline, video: dict[str, Any], kind: str) -> io.NodeOutput:
        """Upscale; what is known about the latent stays known."""
        larger = memory.intermediate(model.upscale(samples_of(video, "video"), kind))
        fps = float(video.get("fps", 24.0))
        facts = {}
        if kind == "temporal_x2":
            facts = {"fps": 2 * fps, "frames": 8 * (larger.shape[2] - 1) + 1}
        return io.NodeOutput({**video, "samples": larger, **facts}, float(facts.get("fps", fps)))
