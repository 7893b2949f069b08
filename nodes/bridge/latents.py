"""What goes between our nodes and ComfyUI's own in the middle of a run: latents of video and sound, encoded prompts."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ...ltx23_core.geometry import TIME_SCALE
from ..checks import guarded
from ..host import memory
from ..latents import DEFAULT_FPS, check_together, samples_of, streams_of
from ..sockets import Context, schema
from ..validation import before_the_run
from .native import is_new_enough

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.plan.latents import PromptContext, PromptPair

NATIVE = ["native", "comfyui", "bridge", "convert"]


class LatentsToNativeNode(io.ComfyNode):
    """Join a video and an audio latent as ComfyUI's own samplers have them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23LatentsToNative", display_name="Latents To Native", aliases=[*NATIVE, "concat av latent"],
            description="Joins video and audio latent to one for ComfyUI's own LTX-2.3 samplers. Its VAE Decode and "
                        "LTXV Audio VAE Decode take our latents as they are.",
            inputs=[
                io.Latent.Input("video", tooltip="Video latent, from Sampler."),
                io.Latent.Input("audio", tooltip="Audio latent, from Sampler."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip=(
                "Video and sound together, for the latent_image of a sampler of ComfyUI's own."))],
        )

    validate_inputs = before_the_run(checks=[is_new_enough])

    @classmethod
    @guarded
    def execute(cls, video: dict[str, Any] | None, audio: dict[str, Any] | None) -> io.NodeOutput:
        """One LATENT; what is known of rate and length stays with it."""
        from ..host.native.streams import together

        check_together(video, audio)
        pictures, sound = samples_of(video, "video"), samples_of(audio, "audio")
        if len(sound) == 1:  # one sound for all videos
            sound = sound.expand(len(pictures), -1, -1, -1)
        known = {key: video[key] for key in ("fps", "frames") if key in video}
        return io.NodeOutput({"samples": together(pictures, sound), **known})


class LatentsFromNativeNode(io.ComfyNode):
    """Part a latent of ComfyUI's own samplers into video and audio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23LatentsFromNative", display_name="Latents From Native",
            aliases=[*NATIVE, "separate av latent"],
            description="Parts the latent of ComfyUI's own LTX-2.3 samplers into a video and an audio latent for our "
                        "Sampler, Latent Upscale and decoders.",
            inputs=[
                io.Latent.Input("latent", tooltip=(
                    "Video and sound together, or one of them. Frames that LTXV Add Guide added are cut off before, "
                    "with LTXV Crop Guides.")),
                io.Float.Input("fps", optional=True, force_input=True, tooltip=(
                    "Frames per second. Not linked: what the latent says, else 24.")),
            ],
            outputs=[
                io.Latent.Output(display_name="video", tooltip="Video latent; nothing where there is none."),
                io.Latent.Output(display_name="audio", tooltip="Audio latent; nothing where there is none."),
            ],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, latent: dict[str, Any] | None, fps: float | None = None) -> io.NodeOutput:
        """Each stream with what our nodes want to know of it; nobody goes on with another sampler's noise."""
        if latent is None:
            raise RequestError("there is no latent", "one that a sampler has made", "Link the latent of a sampler.")
        video, audio = streams_of(latent)
        known = {"fps": fps or latent.get("fps", DEFAULT_FPS)}
        if video is not None:
            known["frames"] = TIME_SCALE * (video.shape[2] - 1) + 1
        elif "frames" in latent:
            known["frames"] = latent["frames"]
        return io.NodeOutput(_latent(video, known), _latent(audio, known))


def _latent(samples: torch.Tensor | None, known: dict[str, Any]) -> dict[str, Any] | None:
    if samples is None:
        return None
    return {"samples": samples, **known}


class ContextToNativeNode(io.ComfyNode):
    """Hand our encoded prompts to ComfyUI's own samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23ContextToNative", display_name="Context To Native",
            aliases=[*NATIVE, "conditioning", "clip text encode"],
            description="The prompt of our Prompt as CONDITIONING for ComfyUI's own LTX-2.3 samplers: its own CLIP "
                        "need not be loaded.",
            inputs=[Context.Input("context", tooltip="The encoded texts, from Prompt.")],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip=(
                    "The prompt, for LTXV Conditioning or a guider.")),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt."),
            ],
        )

    validate_inputs = before_the_run(checks=[is_new_enough])

    @classmethod
    @guarded
    def execute(cls, context: PromptPair) -> io.NodeOutput:
        """Both streams of each text behind each other, as ComfyUI's model takes what its connectors have made."""
        return io.NodeOutput(_conditioning(context.positive), _conditioning(context.negative))


def _conditioning(context: PromptContext) -> list[list[Any]]:
    import torch

    if context.video is None or context.audio is None:
        raise RequestError("the context is of a model without sound", "one for video and sound, as LTX-2.3 has",
                           "Use an Overlay with all of its parts.")
    joined = torch.cat((context.video, context.audio), dim=-1)
    return [[memory.intermediate(joined), {}]]
