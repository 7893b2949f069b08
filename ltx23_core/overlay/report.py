"""What an overlay holds and lacks, for people (spec/09 §1, §8)."""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .manifest import ComponentEntry, Overlay

# Component -> (what brings it, folder under models/).
_MONOLITH = "ltx-2.3-22b-dev.safetensors of Lightricks/LTX-2.3, 46 GB"
_AUDIO = f"LTX23_audio_vae_bf16.safetensors of Kijai/LTX2.3_comfy, 0.4 GB; or {_MONOLITH}"
_VIDEO = f"LTX23_video_vae_bf16.safetensors of Kijai/LTX2.3_comfy, 1.5 GB; or {_MONOLITH}"
_PARTS: dict[str, tuple[str, str]] = {
    "transformer": (_MONOLITH, "checkpoints"), "connectors": (_MONOLITH, "checkpoints"),
    "text_projection": ("ltx-2.3_text_projection_bf16.safetensors of Kijai/LTX2.3_comfy, 2.3 GB; or " + _MONOLITH,
                        "text_encoders"),
    "video_encoder": (_VIDEO, "vae"), "video_decoder": (_VIDEO, "vae"), "audio_encoder": (_AUDIO, "vae"),
    "audio_decoder": (_AUDIO, "vae"), "vocoder": (_AUDIO, "vae"),
    "text_encoder": ("gemma_3_12B_it_fp8_scaled.safetensors of Comfy-Org/ltx-2, 13 GB; or the folder of "
                     "google/gemma-3-12b-it-qat-q4_0-unquantized, 24 GB", "text_encoders"),
    "upsampler_x2": ("ltx-2.3-spatial-upscaler-x2-1.1.safetensors of Lightricks/LTX-2.3, 1.0 GB",
                     "latent_upscale_models"),
    "upsampler_x1.5": ("ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors of Lightricks/LTX-2.3, 1.1 GB",
                       "latent_upscale_models"),
    "upsampler_temporal_x2": ("ltx-2.3-temporal-upscaler-x2-1.0.safetensors of Lightricks/LTX-2.3, 0.3 GB",
                              "latent_upscale_models"),
    "distilled_lora": ("ltx-2.3-22b-distilled-lora-384-1.1.safetensors of Lightricks/LTX-2.3, 7.6 GB", "loras"),
}
# Not missed in a report, since only one optional input asks for it.
_OPTIONAL = {"text_encoder_vision": (
    "a text encoder that sees, to enhance a prompt to an image: gemma_3_12B_it.safetensors of Comfy-Org/ltx-2, 24 GB; "
    "or the folder of google/gemma-3-12b-it-qat-q4_0-unquantized, 24 GB", "text_encoders")}


def where_to_get(name: str) -> tuple[str, str]:
    """For the error about a missing component: what is expected, and what to do."""
    file, folder = (_PARTS | _OPTIONAL).get(name, (_MONOLITH, "checkpoints"))
    return file, (f"Download it into models/{folder} and choose it in the Overlay node, "
                  "or give it to materialize(...).")


def report(overlay: Overlay) -> str:
    """A few lines: what was found, what is missing and where to get it, and what else to know."""
    lines = [f"LTX {overlay.model_version} {overlay.variant}, {overlay.layout}: {overlay.sources[0].path.name}",
             f"overlay {overlay.id[:12]}: {overlay.path}"]
    lines += [f"  {name}: {_entry(entry)}" for name, entry in overlay.components.items() if entry.tensors]
    lines += [f"  no {name}: {file} (models/{folder})" for name, (file, folder) in _PARTS.items()
              if name not in overlay.components]
    lines += [f"  note: {note}" for note in overlay.notes]
    return "\n".join(lines)


def _entry(entry: ComponentEntry) -> str:
    dtypes = Counter(ref.dtype for ref in entry.tensors.values())
    kinds = " and ".join(f"{count} {dtype.lower()}" for dtype, count in dtypes.most_common())
    files = ", ".join(sorted({ref.path.name for ref in entry.tensors.values()}))
    return f"{len(entry.tensors)} tensors ({kinds}), {entry.size_bytes / 1e9:.2f} GB, from {files}"
