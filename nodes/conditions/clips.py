"""LTX23ReferenceVideo, LTX23SourceAudio, LTX23SourceVideo: clips and sound that the result follows."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..checks import guarded
from ..model.files import FILES
from ..model.inputs import NONE
from ..sockets import Model, advanced, schema
from ..validation import before_the_run, no_guess
from .inputs import chained, clip_inputs, masks_of, output, rate_input, source_clip, to_audio

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.conditioning.base import Condition
    from ...ltx23_core.pipeline import Pipeline

LORA = "lora"  # of FILES
MAX_FACTOR = 16
MAX_SECONDS, MAX_IDENTITY = 3600.0, 100.0


class ReferenceVideoNode(io.ComfyNode):
    """A clip that an IC-LoRA follows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23ReferenceVideo", display_name="Reference Video",
            aliases=["ic-lora", "control video", "depth", "pose", "canny", "video to video"],
            description="Gives an IC-LoRA the clip that it follows (depth, pose, edges, a video to change). "
                        "The LoRA itself is loaded with LoRA. Acts in the first stage only, as official.",
            inputs=[
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "How firmly the reference is kept as it is, 0 to 1. Official default 1.")),
                io.Float.Input("attention_strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=(
                    "How much video and reference see of each other, 0 (nothing) to 1. Lower weakens the "
                    "control. Official default 1.")),
                io.Combo.Input("lora", options=[NONE, *FILES.names(LORA)], default=NONE, tooltip=(
                    "The IC-LoRA in use: its header says at what size and rate it was trained, for downscale "
                    "and temporal at 0. none (default): as the linked model says, else 1 and 1. It is not "
                    "loaded here.")),
                *clip_inputs(sound=False, length="A shorter clip ends earlier."),
                io.Mask.Input("mask", optional=True, tooltip=(
                    "Weights of attention_strength in space and time, 0 to 1: one mask, or one for each "
                    "frame of the clip. Not linked: everywhere 1.")),
                advanced(io.Int.Input("downscale", optional=True, default=0, min=0, max=MAX_FACTOR, tooltip=(
                    "The reference is encoded at width and height divided by this. 0 (default): as the LoRA "
                    "says, else 1."))),
                advanced(io.Int.Input("temporal", optional=True, default=0, min=0, max=MAX_FACTOR, tooltip=(
                    "Of the clip every so manieth frame is taken. 0 (default): as the LoRA says, else 1."))),
                rate_input(),
                chained(),
                Model.Input("model", optional=True, tooltip=(
                    "The model behind the LoRA node: says downscale and temporal as its IC-LoRA does, so that lora "
                    "need not be chosen here again.")),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run("lora", checks=[lambda given: _scales(given.get("lora", NONE))], guess=no_guess)

    @classmethod
    @guarded
    def execute(cls, strength: float, attention_strength: float, lora: str, video: Any = None,  # noqa: ANN401
                images: torch.Tensor | None = None, mask: torch.Tensor | None = None,
                downscale: int = 0, temporal: int = 0, source_fps: float = 0.0,
                conditions: tuple[Condition, ...] = (), model: Pipeline | None = None) -> io.NodeOutput:
        """Add the reference; factors at 0 come from the LoRA's header."""
        from ...ltx23_core.conditioning.reference import ReferenceVideo

        known = _scales(lora)
        if lora == NONE and model is not None:
            known = _scales_of(model)
        clip = source_clip(video, images, None, source_fps, sound=False)
        if mask is not None:
            mask = masks_of(mask)
        reference = ReferenceVideo(clip, strength, attention_strength, mask=mask,
                                   downscale=downscale or known[0], temporal=temporal or known[1])
        return io.NodeOutput((*conditions, reference))


def _scales_of(model: Pipeline) -> tuple[int, int]:
    """Factors of the model's LoRAs, of which one alone is for references."""
    from ...ltx23_core.conditioning.scales import reference_scales

    found = (1, 1)
    for each in model.loras:
        scales = reference_scales(Path(each.path))
        if scales != (1, 1):
            found = scales
    return found


def _scales(lora: str) -> tuple[int, int]:
    from ...ltx23_core.conditioning.scales import reference_scales

    if lora == NONE:
        return 1, 1
    return reference_scales(FILES.find(LORA, lora).identity.path)


class SourceAudioNode(io.ComfyNode):
    """Audio to video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23SourceAudio", display_name="Source Audio",
            aliases=["audio to video", "a2v", "lip sync", "talking", "music video"],
            description="Makes the video for a given sound, which is kept: the file gets the original. "
                        "Describe in the prompt who speaks and what is heard.",
            inputs=[
                io.Audio.Input("audio", tooltip=(
                    "The sound; surround is mixed down to stereo. It is cut to the video's length; a shorter "
                    "one is filled up with silence.")),
                io.Float.Input("start", default=0.0, min=0.0, max=MAX_SECONDS, step=0.01, tooltip=(
                    "Seconds of the sound that are left out at its beginning. Default 0.")),
                io.Float.Input("noise", default=0.0, min=0.0, max=1.0, step=0.001, tooltip=(
                    "White noise added to what the model hears, as std with full scale 1; the file's sound "
                    "stays clean. If very clean speech leaves the face still, try 0.002 to 0.01, the cure "
                    "that users found. Default 0, as official.")),
                chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, audio: dict[str, Any], start: float, noise: float,
                conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the sound."""
        from ...ltx23_core.conditioning.source_streams import SourceAudio

        return io.NodeOutput((*conditions, SourceAudio(to_audio(audio), start, noise)))


class ReferenceVoiceNode(io.ComfyNode):
    """A spoken sample that an ID-LoRA follows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23ReferenceVoice", display_name="Reference Voice",
            aliases=["id-lora", "voice", "speaker", "identity", "reference audio", "voice cloning"],
            description="Gives an ID-LoRA the spoken sample whose voice the result shall have. The LoRA "
                        "itself is loaded with LoRA. Write the exact words into the prompt.",
            inputs=[
                io.Audio.Input("audio", tooltip=(
                    "Speech of the person, about 5 seconds, without music or other voices. Any rate; "
                    "surround is mixed down.")),
                io.Float.Input("identity_guidance", default=3.0, min=0.0, max=MAX_IDENTITY, step=0.1,
                               tooltip=(
                    "How far each step is pushed towards the sample's voice, 0 (off) to 100; costs a pass a "
                    "step. Default 3, as in ComfyUI; with distilled models 0.5 to 1 is reported to be "
                    "better.")),
                advanced(io.Float.Input("seconds", optional=True, default=5.0, min=0.1, max=60.0, step=0.1, tooltip=(
                    "Seconds of the sample that are used, from its beginning, 0.1 to 60. Default 5, the "
                    "length in training."))),
                chained(),
            ],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, audio: dict[str, Any], identity_guidance: float, seconds: float = 5.0,
                conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the sample."""
        from ...ltx23_core.conditioning.voice import ReferenceVoice

        return io.NodeOutput((*conditions, ReferenceVoice(to_audio(audio), identity_guidance, seconds)))


class SourceVideoNode(io.ComfyNode):
    """Video to audio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23SourceVideo", display_name="Source Video",
            aliases=["video to audio", "v2a", "foley", "sound effects"],
            description="Makes the sound for a given video, which is kept. The decoded picture has been "
                        "through the VAE once; for the original frames join them with Decode Audio in "
                        "CreateVideo.",
            inputs=[*clip_inputs(sound=False), rate_input(), chained()],
            outputs=[output()],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, video: Any = None, images: torch.Tensor | None = None,  # noqa: ANN401
                source_fps: float = 0.0, conditions: tuple[Condition, ...] = ()) -> io.NodeOutput:
        """Add the clip."""
        from ...ltx23_core.conditioning.source_streams import SourceVideo

        clip = source_clip(video, images, None, source_fps, sound=False)
        return io.NodeOutput((*conditions, SourceVideo(clip)))
