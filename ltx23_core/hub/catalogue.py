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
_COMFY_LORAS = ("Comfy-Org/ltx-2.3", "split_files/loras/")
_IC_LORA = "Lightricks/LTX-2.3-22b-IC-LoRA-"
_SPLIT, _PART = "Kijai/LTX2.3_comfy", "diffusion_models/ltx-2.3-22b-"
_GGUF, _GEMMA_GGUF = "unsloth/LTX-2.3-GGUF", "unsloth/gemma-3-12b-it-qat-GGUF"

CATALOGUE: tuple[Entry, ...] = (
    Entry("dev", _MAIN, "ltx-2.3-22b-dev.safetensors", 46.1, "checkpoints", "checkpoint, 30 guided steps"),
    Entry("distilled", _MAIN, "ltx-2.3-22b-distilled.safetensors", 46.1, "checkpoints",
          "checkpoint, 8 steps"),
    Entry("distilled-1.1", _MAIN, "ltx-2.3-22b-distilled-1.1.safetensors", 46.1, "checkpoints",
          "checkpoint, 8 steps, newer"),
    Entry("dev-fp8", "Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-dev-fp8.safetensors", 29.1, "checkpoints",
          "dev checkpoint in fp8"),
    Entry("distilled-fp8", "Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-distilled-fp8.safetensors",
          29.5, "checkpoints", "distilled checkpoint in fp8"),
    Entry("dev-nvfp4", "Lightricks/LTX-2.3-nvfp4", "ltx-2.3-22b-dev-nvfp4.safetensors", 21.7, "checkpoints",
          "dev checkpoint in NVFP4"),
    Entry("gemma", "google/gemma-3-12b-it-qat-q4_0-unquantized", "", 24.4, "text_encoders",
          "text encoder, the official folder", gated=True, instead="gemma-comfy"),
    Entry("gemma-comfy", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}.safetensors", 24.4, "text_encoders",
          "text encoder, single file"),
    Entry("gemma-comfy-fp8", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}_fp8_scaled.safetensors",
          13.2, "text_encoders", "text encoder, single file in fp8"),
    Entry("gemma-comfy-fp4", _COMFY_GEMMA[0], f"{_COMFY_GEMMA[1]}_fp4_mixed.safetensors",
          9.5, "text_encoders", "text encoder, single file, mostly NVFP4"),
    Entry("upscaler-x2", _MAIN, "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", 1.0, "latent_upscale_models",
          "latent upscaler of the two-stage recipes"),
    Entry("upscaler-x2-1.0", _MAIN, "ltx-2.3-spatial-upscaler-x2-1.0.safetensors",
          1.0, "latent_upscale_models", "the same, older"),
    Entry("upscaler-x1.5", _MAIN, "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors",
          1.1, "latent_upscale_models", "latent upscaler x1.5"),
    Entry("upscaler-temporal-x2", _MAIN, "ltx-2.3-temporal-upscaler-x2-1.0.safetensors",
          0.3, "latent_upscale_models", "twice the frames"),
    Entry("distilled-lora", _MAIN, "ltx-2.3-22b-distilled-lora-384-1.1.safetensors", 7.6, "loras",
          "distilled recipes on dev weights"),
    Entry("distilled-lora-1.0", _MAIN, "ltx-2.3-22b-distilled-lora-384.safetensors", 7.6, "loras", "the same, older"),
    Entry("distilled-lora-small", "Comfy-Org/ltx-2.3",
          "split_files/loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors", 2.7, "loras",
          "the same, reduced"),
    Entry("union-control", f"{_IC_LORA}Union-Control", "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors", 0.7,
          "loras", "IC-LoRA: canny, depth, pose"),
    Entry("motion-track-control", f"{_IC_LORA}Motion-Track-Control",
          "ltx-2.3-22b-ic-lora-motion-track-control-ref0.5.safetensors", None, "loras",
          "IC-LoRA: motion tracks"),
    # What else ComfyUI's own templates name.
    Entry("ingredients", _COMFY_LORAS[0], f"{_COMFY_LORAS[1]}ltx-2.3-22b-ic-lora-ingredients-0.9.safetensors", None,
          "loras", "IC-LoRA: people and things from pictures"),
    Entry("id-lora", _COMFY_LORAS[0], f"{_COMFY_LORAS[1]}ltx-2.3-id-lora-talkvid-3k.safetensors",
          None, "loras", "LoRA: the voice of a recording"),
    Entry("transition", "valiantcat/LTX-2.3-Transition-LORA", "ltx2.3-transition.safetensors", None, "loras",
          "LoRA: from one style to another"),
    Entry("gemma-lora", _COMFY_GEMMA[0],
          "split_files/loras/gemma-3-12b-it-abliterated_lora_rank64_bf16.safetensors", None, "loras",
          "LoRA for Gemma, for ComfyUI's prompt enhancer; LTX-2.3 itself cannot use it"),
    Entry("moge-normal", "Comfy-Org/MoGe", "geometry_estimation/moge_2_vitl_normal_fp16.safetensors", None,
          "geometry_estimation", "depth and normals for union-control, by ComfyUI's nodes"),
    # The parts as files of their own.
    Entry("dev-transformer", _SPLIT, f"{_PART}dev_transformer_only_bf16.safetensors",
          42.0, "diffusion_models", "transformer with connectors, 30 guided steps"),
    Entry("dev-transformer-fp8", _SPLIT, f"{_PART}dev_transformer_only_fp8_scaled.safetensors", 23.5,
          "diffusion_models", "the same in fp8"),
    Entry("dev-transformer-mxfp8", _SPLIT, f"{_PART}dev_transformer_only_mxfp8_block32.safetensors", 24.1,
          "diffusion_models", "the same in MXFP8"),
    Entry("distilled-transformer", _SPLIT, f"{_PART}distilled-1.1_transformer_only_bf16.safetensors", 42.0,
          "diffusion_models", "transformer with connectors, 8 steps"),
    Entry("distilled-transformer-fp8", _SPLIT, f"{_PART}distilled-1.1_transformer_only_fp8_scaled.safetensors", 25.2,
          "diffusion_models", "the same in fp8"),
    Entry("text-projection", _SPLIT, "text_encoders/ltx-2.3_text_projection_bf16.safetensors",
          2.3, "text_encoders", "text projection, for a transformer alone"),
    Entry("video-vae", _SPLIT, "vae/LTX23_video_vae_bf16.safetensors", 1.5, "vae",
          "video VAE, for a transformer alone"),
    Entry("audio-vae", _SPLIT, "vae/LTX23_audio_vae_bf16.safetensors", 0.4, "vae",
          "audio VAE and vocoder, for a transformer alone"),
    # GGUF: transformer and connectors; the other parts as above.
    Entry("dev-q8", _GGUF, "ltx-2.3-22b-dev-Q8_0.gguf", 22.8, "diffusion_models",
          "dev transformer, GGUF Q8_0"),
    Entry("dev-q6", _GGUF, "ltx-2.3-22b-dev-Q6_K.gguf", 17.8, "diffusion_models",
          "dev transformer, GGUF Q6_K"),
    Entry("dev-q4", _GGUF, "ltx-2.3-22b-dev-Q4_K_M.gguf", 14.3, "diffusion_models",
          "dev transformer, GGUF Q4_K_M"),
    Entry("distilled-q8", _GGUF, "distilled-1.1/ltx-2.3-22b-distilled-1.1-Q8_0.gguf",
          22.8, "diffusion_models", "distilled transformer, GGUF Q8_0"),
    Entry("distilled-q4", _GGUF, "distilled-1.1/ltx-2.3-22b-distilled-1.1-Q4_K_M.gguf",
          14.3, "diffusion_models", "distilled transformer, GGUF Q4_K_M"),
    Entry("gemma-q4", _GEMMA_GGUF, "gemma-3-12b-it-qat-UD-Q4_K_XL.gguf", None, "text_encoders",
          "text encoder, GGUF, mostly Q4_K"),
)
ENTRIES = {entry.name: entry for entry in CATALOGUE}


def named(file: str) -> Entry | None:
    """The entry of a file by its name on disk, in any folder; None if the catalogue does not know it."""
    name = file.replace("\\", "/").rsplit("/", 1)[-1].lower()
    if not name:
        return None
    for entry in CATALOGUE:
        if entry.path.rsplit("/", 1)[-1].lower() == name:
            return entry
    return None


def table() -> str:
    """The catalogue as text, one entry a line."""
    width = max(map(len, ENTRIES)) + 1
    return "\n".join(_line(entry, width) for entry in CATALOGUE)


def _line(entry: Entry, width: int) -> str:
    size = ""
    if entry.size:
        size = f"{entry.size:.1f} GB"
    what = entry.what
    if entry.gated:
        what += " (gated)"
    place = entry.repo
    if entry.path:
        place += f":{entry.path}"
    first = f"{entry.name:<{width}}{size:>8}  {'models/' + entry.folder:<29}{what}"
    return f"{first}\n{'':{width + 10}}{place}"
