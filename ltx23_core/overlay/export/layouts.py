"""The layouts that an overlay can be exported to, each as a list of files; nothing is written here.

- ``monolith``: the official single file.
- ``split``: ComfyUI's files, in the folders under ``models`` that they belong to (spec/09 §3, §4).
- ``transformer``: the first file of split alone, a GGUF file where the weights become one (spec/09 §2.8).
- ``diffusers``: see `export_diffusers`.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable

from ...errors import ExportError, OverlayError
from ..bytes.header import read_header
from ..manifest import ComponentEntry, Overlay
from ..names.layout import OFFICIAL
from ..weight_dtype import AS_STORED, GGUF
from .diffusers import diffusers_files
from .files import OutputFile, stored_tensors, weights_file
from .gguf import gguf_file
from .native import (
    AUDIO_VAE,
    MODEL,
    PROJECTION,
    VIDEO_VAE,
    configs,
    native_file,
    native_gemma,
    official,
    prefixed,
    text,
)

_LORA = "diffusion_model."
_PART_OF_NAME = re.compile(r"[_-](transformer_only|diffusion_model).*$")

# Names of the files of the split layout.
_SPLIT = {MODEL: "diffusion_models/{stem}_transformer_only{dtype}.safetensors",
          PROJECTION: "text_encoders/{stem}_text_projection.safetensors",
          VIDEO_VAE: "vae/{stem}_video_vae.safetensors", AUDIO_VAE: "vae/{stem}_audio_vae.safetensors"}


def _monolith(overlay: Overlay, shard_bytes: int, weight_dtype: str) -> list[OutputFile]:
    if weight_dtype in GGUF:
        raise ExportError(f"layout monolith with {weight_dtype}",
                          "layout split or transformer: a GGUF file cannot hold a VAE", "Export as split.")
    return [weights_file(f"{_stem(overlay)}{_suffix(weight_dtype)}.safetensors",
                         official(overlay, OFFICIAL.components), _full_metadata(overlay))]


def _transformer(overlay: Overlay, shard_bytes: int, weight_dtype: str) -> list[OutputFile]:
    return [_split_file(overlay, weight_dtype, MODEL)]


def _diffusers(overlay: Overlay, shard_bytes: int, weight_dtype: str) -> list[OutputFile]:
    if weight_dtype != AS_STORED:
        raise ExportError(f"layout diffusers with {weight_dtype}",
                          "layout monolith, split or transformer: diffusers has no such weights",
                          "Export as split.")
    return diffusers_files(overlay, shard_bytes)


def _suffix(weight_dtype: str) -> str:
    """What a file's name says of its weights."""
    if weight_dtype == AS_STORED:
        return ""
    return f"_{weight_dtype}"


def _split_file(overlay: Overlay, weight_dtype: str, file: str) -> OutputFile:
    what = native_file(overlay, file)
    if file == MODEL and weight_dtype in GGUF:
        name = f"diffusion_models/{_stem(overlay)}-{weight_dtype}.gguf"
        return gguf_file(name, weight_dtype, what.tensors, what.metadata)
    name = _SPLIT[file].format(stem=_stem(overlay), dtype=_suffix(weight_dtype))
    return weights_file(name, what.tensors, what.metadata)


def _split(overlay: Overlay, shard_bytes: int, weight_dtype: str) -> list[OutputFile]:
    files = [_split_file(overlay, weight_dtype, file) for file in _SPLIT]
    if "text_encoder" in overlay.components:
        files.append(_comfy_gemma(overlay))
    for component, entry in sorted(overlay.components.items()):
        if component.startswith("upsampler_"):
            metadata = {**_stored_metadata(entry), "config": text(entry.config)}
            files.append(weights_file(f"latent_upscale_models/{_companion_name(entry, component)}.safetensors",
                                      stored_tensors(overlay, component), metadata))
    if lora := overlay.components.get("distilled_lora"):
        tensors = prefixed(_LORA, stored_tensors(overlay, "distilled_lora"))
        files.append(weights_file(f"loras/{_companion_name(lora, 'distilled-lora')}.safetensors", tensors,
                                  _stored_metadata(lora)))
    return files


LAYOUTS: dict[str, Callable[[Overlay, int, str], list[OutputFile]]] = {
    "diffusers": _diffusers, "monolith": _monolith, "split": _split, "transformer": _transformer}


def _full_metadata(overlay: Overlay) -> dict[str, str]:
    """Metadata of the official file: the checkpoint's own, word for word, as far as it says the same."""
    stored = _stored_metadata(overlay.require("transformer"))
    try:
        known = dict(json.loads(stored["config"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        stored, known = {}, {}
    config = known | configs(overlay, OFFICIAL.components)
    metadata = dict(stored)
    if config != known:
        metadata["config"] = text(config)
    metadata.setdefault("model_version", overlay.model_version)
    return metadata


def _stored_metadata(entry: ComponentEntry) -> dict[str, str]:
    """Metadata of the file that a component comes from; none if that is no safetensors file."""
    try:
        return read_header(next(iter(entry.tensors.values())).path).metadata
    except OverlayError:
        return {}


def _comfy_gemma(overlay: Overlay) -> OutputFile:
    """Gemma as one file with the tokenizer inside, as ComfyUI reads it."""
    path = next(iter(overlay.require("text_encoder").tensors.values())).path
    name = "gemma-3"
    for known in (path.parent.name, path.stem):
        if "gemma" in known.lower():
            name = known
    what = native_gemma(overlay)
    return weights_file(f"text_encoders/{name}.safetensors", what.tensors, what.metadata)


def _file_stem(entry: ComponentEntry) -> str:
    return next(iter(entry.tensors.values())).path.stem


def _companion_name(entry: ComponentEntry, what: str) -> str:
    """The source's name if it tells what the file is, else one that does."""
    stem = _file_stem(entry)
    if "ltx" in stem.lower():
        return stem
    return f"ltx-2.3-{what.replace('_', '-')}"


def _stem(overlay: Overlay) -> str:
    """What the new files are named after: the checkpoint, if its name tells the variant that it is."""
    stem = _PART_OF_NAME.sub("", _file_stem(overlay.require("transformer")))
    tells = "ltx" in stem.lower() and ("distilled" in stem.lower()) == (overlay.variant == "distilled")
    if tells:
        return stem
    return f"ltx-2.3-{overlay.variant}"
