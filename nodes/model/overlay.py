"""LTX23Overlay: from the weight files that the user has to a description of the model. No weights are read."""
from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...ltx23_core.errors import LTX23Error
from ..checks import guarded, problem_of
from ..host import folders
from ..sockets import Overlay, advanced, schema
from .files import AUTO, CHECK_SECONDS, FILES, NONE

if TYPE_CHECKING:
    from ...ltx23_core.overlay.shelf.choose import Choice

VARIANTS = [AUTO, "dev", "distilled"]


def _combo(key: str, tooltip: str, optional: bool = True, none: bool = True) -> io.Input:
    """A list of usable files, auto first."""
    options = [AUTO, *FILES.names(key), *([NONE] if none else [])]
    return io.Combo.Input(key, options=options, default=AUTO, optional=optional, tooltip=tooltip)


def _manifest_name(choice: Choice, variant: str) -> str:
    paths = sorted(f"{role}={item.identity.path}" for role, item in choice.files.items())
    digest = hashlib.sha256("\n".join([*paths, variant]).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{choice.files['checkpoint'].identity.path.stem}-{digest}.ltx23.json"


class OverlayNode(io.ComfyNode):
    """Describe the weight files as one model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Lists are read here, so that the page's refresh key (R) updates them."""
        FILES.begin("LTX23Overlay")
        return schema(
            node_id="LTX23Overlay", display_name="Overlay", aliases=["checkpoint", "materialize", "loader"],
            description="Describes the LTX-2.3 files you have as one model. Reads headers only: nothing is loaded, "
                        "copied or converted.",
            inputs=[
                _combo("checkpoint", optional=False, none=False, tooltip=(
                    "The LTX-2.3 weights: a complete checkpoint, a transformer alone or a diffusers folder, in any "
                    "model folder. auto (default) takes the best complete set and says why in the report. Official "
                    "file: ltx-2.3-22b-dev.safetensors (46 GB) from Lightricks/LTX-2.3. Files of other models are not "
                    "listed; the report says why.")),
                _combo("text_encoder", optional=False, tooltip=(
                    "Gemma 3 12B: a folder or a single file in models/text_encoders. auto (default) takes the one that "
                    "fits the checkpoint. With none, prompts cannot be encoded; everything else works.")),
                _combo("upsampler", tooltip=(
                    "Latent upscaler from models/latent_upscale_models, needed by the recipe distilled (two stages): "
                    "ltx-2.3-spatial-upscaler-x2-1.1.safetensors. auto (default) takes one of each kind.")),
                _combo("distilled_lora", tooltip=(
                    "Distilled LoRA from models/loras (ltx-2.3-22b-distilled-lora-384-1.1.safetensors): lets a dev "
                    "checkpoint run the distilled recipes, and does nothing in others. auto (default) takes one whose "
                    "name says distilled.")),
                io.Combo.Input("variant", optional=True, options=VARIANTS, default=AUTO, tooltip=(
                    "Which model the checkpoint is: dev needs guidance and 30 steps, distilled runs in 8 steps "
                    "without. auto (default) goes by the name; set it if the report names the wrong one.")),
                *(advanced(_combo(key, none=False, tooltip=(
                    f"{what} from a file of its own. auto (default): the checkpoint's, and where that has none the "
                    "best file there is.")))
                  for key, what in (("text_projection", "Text projection"), ("video_vae", "Video VAE"),
                                    ("audio_vae", "Audio VAE and vocoder"))),
            ],
            outputs=[
                Overlay.Output(display_name="overlay", tooltip="The described model, for Load."),
                io.String.Output(display_name="report", tooltip=(
                    "What was found and why it was taken, what is missing and where to get it, and what else is in "
                    "the model folders. The node shows it too.")),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None, text_encoder: str | None = None,
                        upsampler: str | None = None, distilled_lora: str | None = None,
                        variant: str | None = None, text_projection: str | None = None,
                        video_vae: str | None = None, audio_vae: str | None = None) -> bool | str:
        """Say what is wrong with a chosen file; a linked input is None here and checked when the node runs."""
        named = {"checkpoint": checkpoint, "text_encoder": text_encoder, "upsampler": upsampler,
                 "distilled_lora": distilled_lora, "text_projection": text_projection, "video_vae": video_vae,
                 "audio_vae": audio_vae}
        def more() -> None:
            FILES.choose({key: AUTO if name is None else name for key, name in named.items()}, CHECK_SECONDS)

        return problem_of(cls, {**named, "variant": variant}, more) or True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, text_encoder: str | None = None,
                           upsampler: str | None = None, distilled_lora: str | None = None,
                           variant: str | None = None, text_projection: str | None = None,
                           video_vae: str | None = None, audio_vae: str | None = None) -> str:
        """Stands for path, time and size of every source file: the node runs again when one of them changed.

        Hashed, because ComfyUI writes it into saved files together with the prompt: no paths of the user there.
        """
        named = {"checkpoint": checkpoint, "text_encoder": text_encoder, "upsampler": upsampler,
                 "distilled_lora": distilled_lora, "text_projection": text_projection, "video_vae": video_vae,
                 "audio_vae": audio_vae}
        try:
            choice, _ = FILES.choose({key: name or AUTO for key, name in named.items()}, CHECK_SECONDS)
        except LTX23Error as error:  # the node itself will say so
            return str(error)
        return hashlib.sha256("\n".join(choice.fingerprint()).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @classmethod
    @guarded
    def execute(cls, checkpoint: str, text_encoder: str, upsampler: str = AUTO, distilled_lora: str = AUTO,
                variant: str = AUTO, text_projection: str = AUTO, video_vae: str = AUTO,
                audio_vae: str = AUTO) -> io.NodeOutput:
        """Write the manifest to models/ltx23_overlays and give the overlay and its report."""
        from ...ltx23_core.overlay import materialize
        from ...ltx23_core.overlay.shelf.report import report as full_report

        choice, items = FILES.choose({
            "checkpoint": checkpoint, "text_encoder": text_encoder, "upsampler": upsampler, "distilled_lora":
            distilled_lora, "text_projection": text_projection, "video_vae": video_vae, "audio_vae": audio_vae})
        arguments = choice.arguments() | ({} if variant == AUTO else {"variant": variant})
        overlay = materialize(**arguments, output=folders.manifest_path(_manifest_name(choice, variant)))
        report = full_report(overlay, choice, items)
        return io.NodeOutput(overlay, report, ui={"text": [report]})
