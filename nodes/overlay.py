"""LTX23Overlay: from the weight files that the user has to a description of the model. No weights are read."""
from __future__ import annotations

import hashlib
from pathlib import Path

from comfy_api.latest import io

from ..ltx23_core.errors import LTX23Error, RequestError
from . import host
from .sockets import Overlay, schema

CHECKPOINTS = ("checkpoints", "diffusion_models")
UPSCALERS = ("latent_upscale_models",)
LORAS = ("loras",)
VARIANTS = ["auto", "dev", "distilled"]


def _paths(checkpoint: str, text_encoder: str, upsampler: str, distilled_lora: str) -> list[Path | None]:
    """Full paths of the four choices in this order, None for "none"; `OverlayError` for one that is not there."""
    return [host.file_path(checkpoint, *CHECKPOINTS),
            None if text_encoder == host.NONE else host.text_encoder_path(text_encoder),
            None if upsampler == host.NONE else host.file_path(upsampler, *UPSCALERS),
            None if distilled_lora == host.NONE else host.file_path(distilled_lora, *LORAS)]


def _check_variant(variant: str) -> None:
    if variant not in VARIANTS:
        raise RequestError(f"variant is {variant!r}", f"one of {', '.join(VARIANTS)}", "Choose auto.")


def _manifest_name(paths: list[Path | None], variant: str) -> str:
    digest = hashlib.sha256("\n".join(map(str, [*paths, variant])).encode()).hexdigest()[:8]
    return f"{paths[0].stem}-{digest}.ltx23.json"


class OverlayNode(io.ComfyNode):
    """Describe the weight files as one model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Lists are read here, so that the page's refresh key (R) updates them."""
        encoders = host.text_encoder_names()
        return schema(
            node_id="LTX23Overlay", display_name="Overlay", aliases=["checkpoint", "materialize", "loader"],
            description="Describes the LTX-2.3 files you have as one model. Reads headers only: nothing is loaded, "
                        "copied or converted.",
            inputs=[
                io.Combo.Input("checkpoint", options=host.file_names(*CHECKPOINTS), tooltip=(
                    "The LTX-2.3 weights, from models/checkpoints and models/diffusion_models. Official file: "
                    "ltx-2.3-22b-dev.safetensors (46 GB) from Lightricks/LTX-2.3. Transformer, video VAE, audio VAE "
                    "and vocoder are taken from it.")),
                io.Combo.Input("text_encoder", options=[*encoders, host.NONE],
                               default=encoders[0] if encoders else host.NONE, tooltip=(
                    "The Gemma 3 12B folder (config.json, .safetensors files, tokenizer) in models/text_encoders. "
                    "Official: google/gemma-3-12b-it-qat-q4_0-unquantized. With none, prompts cannot be encoded; "
                    "everything else works.")),
                io.Combo.Input("upsampler", optional=True, options=[host.NONE, *host.file_names(*UPSCALERS)],
                               default=host.NONE, tooltip=(
                    "Latent upscaler from models/latent_upscale_models, needed by the recipe distilled (two stages): "
                    "ltx-2.3-spatial-upscaler-x2-1.1.safetensors. Other recipes do not use it. Default: none.")),
                io.Combo.Input("distilled_lora", optional=True, options=[host.NONE, *host.file_names(*LORAS)],
                               default=host.NONE, tooltip=(
                    "Distilled LoRA from models/loras (ltx-2.3-22b-distilled-lora-384-1.1.safetensors): lets a dev "
                    "checkpoint run the distilled recipes. Default: none.")),
                io.Combo.Input("variant", optional=True, options=VARIANTS, default="auto", tooltip=(
                    "Which model the checkpoint is: dev needs guidance and 30 steps, distilled runs in 8 steps "
                    "without. auto (default) decides by the file; set it if the report names the wrong one.")),
            ],
            outputs=[
                Overlay.Output(display_name="overlay", tooltip="The described model, for Load."),
                io.String.Output(display_name="report", tooltip=(
                    "What was found: layout, variant, components and what is missing. Link it to Preview Any.")),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None, text_encoder: str | None = None,
                        upsampler: str | None = None, distilled_lora: str | None = None,
                        variant: str | None = None) -> bool | str:
        """Say which chosen file is not there; a linked input is None here and checked when the node runs."""
        try:
            if checkpoint is not None:
                host.file_path(checkpoint, *CHECKPOINTS)
                _paths(checkpoint, text_encoder or host.NONE, upsampler or host.NONE, distilled_lora or host.NONE)
            _check_variant(variant or "auto")
        except LTX23Error as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, text_encoder: str | None = None,
                           upsampler: str | None = None, distilled_lora: str | None = None,
                           variant: str | None = None) -> str:
        """Stands for path, time and size of every source file: the node runs again when one of them changed.

        Hashed, because ComfyUI writes it into saved files together with the prompt: no paths of the user there.
        """
        if checkpoint is None:
            return ""
        try:
            paths = _paths(checkpoint, text_encoder or host.NONE, upsampler or host.NONE, distilled_lora or host.NONE)
        except LTX23Error as error:  # the node itself will say so
            return str(error)
        files = [file for path in paths if path for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        seen = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    @classmethod
    def execute(cls, checkpoint: str, text_encoder: str, upsampler: str = host.NONE, distilled_lora: str = host.NONE,
                variant: str = "auto") -> io.NodeOutput:
        """Write the manifest to models/ltx23_overlays and give the overlay and its report."""
        from ..ltx23_core.overlay import materialize

        _check_variant(variant)
        paths = _paths(checkpoint, text_encoder, upsampler, distilled_lora)
        overlay = materialize(paths[0], paths[1], upsamplers=[paths[2]] if paths[2] else [], distilled_lora=paths[3],
                              variant=variant, output=host.manifest_path(_manifest_name(paths, variant)))
        report = overlay.report()
        return io.NodeOutput(overlay, report, ui={"text": [report]})
