"""The files that people need, by short names (spec/09 §1). Data only: nothing is looked up, nothing is downloaded.

Sizes are those published, in GB (10^9 bytes), to choose by; a download goes by what the hub says. The hub also states
each file's SHA-256, which is what a download is checked against, so none stands here.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A file, or a whole repository (`path` is empty), with the folder of ComfyUI's models that it belongs in.

    Args:
        size: GB, None where it is not published.
        gated: the owner's terms must be accepted with a Hugging Face account first.
        instead: name of an entry that does the same and is not gated.
    """

    name: str
    repo: str
    path: str
    size: float | None
    folder: str
    what: str
    gated: bool = False
    instead: str = ""


_MAIN = "Lightricks/LTX-2.3"
_COMFY_GEMMA = ("Comfy-Org/ltx-2", "split_files/text_encoders/gemma_3_12B_it")
_IC_LORA = "Lightricks/LTX-2.3-22b-IC-LoRA-"

CATALOGUE: tuple[Entry, ...] = (
    Entry("dev", _MAIN, "ltx-2.3-22b-dev.safetensors", 46.1, "checkpoints", "checkpoint, 30 guided steps"),
    Entry("distilled", _MAIN, "ltx-2.3-22b-distilled.safetensors", 46.1, "checkpoints", "checkpoint, 8 steps"),
    Entry("distilled-1.1", _MAIN, "ltx-2.3-22b-distilled-1.1.safetensors", 46.1, "checkpoints",
          "checkpoint, 8 steps, newer"),
    Entry("dev-fp8", "Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-dev-fp8.safetensors", 29.1, "checkpoints",
          "dev checkpoint in fp8"),
    Entry("distilled-fp8", "Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-distilled-fp8.safetensors", 29.5, "checkpoints",
          "distilled checkpoint in fp8"),
    Entry("dev-nvfp4", "Lightricks/LTX-2.3-nvfp4", "ltx-2.3-22b-dev-nvfp4.safetensors", 21.7, "checkpoints",
          "dev checkpoint in NVFP4"),
    Entry("gemma", "google/gemma-3-12b-it-qat-q4_0-unquantized", "", 24.4, "text_encoders",
          "text encoder, the official folder", gated=True, instead="gemma-comfy"),
    Entry("gemma-comfy", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}.safetensors", 24.4, "text_encoders",
          "text encoder, single file"),
    Entry("gemma-comfy-fp8", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}_fp8_scaled.safetensors", 13.2, "text_encoders",
          "text encoder, single file in fp8"),
    Entry("gemma-comfy-fp4", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}_fp4_mixed.safetensors", 9.5, "text_encoders",
          "text encoder, single file, mostly NVFP4"),
    Entry("upscaler-x2", _MAIN, "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", 1.0, "latent_upscale_models",
          "latent upscaler of the two-stage recipes"),
    Entry("upscaler-x2-1.0", _MAIN, "ltx-2.3-spatial-upscaler-x2-1.0.safetensors", 1.0, "latent_upscale_models",
          "the same, older"),
    Entry("upscaler-x1.5", _MAIN, "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors", 1.1, "latent_upscale_models",
          "latent upscaler x1.5"),
    Entry("upscaler-temporal-x2", _MAIN, "ltx-2.3-temporal-upscaler-x2-1.0.safetensors", 0.3, "latent_upscale_models",
          "twice the frames"),
    Entry("distilled-lora", _MAIN, "ltx-2.3-22b-distilled-lora-384-1.1.safetensors", 7.6, "loras",
          "distilled recipes on dev weights"),
    Entry("distilled-lora-1.0", _MAIN, "ltx-2.3-22b-distilled-lora-384.safetensors", 7.6, "loras", "the same, older"),
    Entry("distilled-lora-small", "Comfy-Org/ltx-2.3",
          "split_files/loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors", 2.7, "loras",
          "the same, reduced"),
    Entry("union-control", f"{_IC_LORA}Union-Control", "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors", 0.7,
          "loras", "IC-LoRA: canny, depth, pose"),
    Entry("motion-track-control", f"{_IC_LORA}Motion-Track-Control",
          "ltx-2.3-22b-ic-lora-motion-track-control-ref0.5.safetensors", None, "loras", "IC-LoRA: motion tracks"),
)
ENTRIES = {entry.name: entry for entry in CATALOGUE}


def table() -> str:
    """The catalogue as text, one entry a line."""
    size = {entry.name: f"{entry.size:.1f} GB" if entry.size else "" for entry in CATALOGUE}
    lines = [f"{entry.name:<21}{size[entry.name]:>8}  {'models/' + entry.folder:<29}{entry.what}"
             f"{' (gated)' if entry.gated else ''}\n{'':31}{entry.repo}{':' + entry.path if entry.path else ''}"
             for entry in CATALOGUE]
    return "\n".join(lines)
