"""The layouts that an overlay can be exported to, each as a list of files; nothing is written here.

- ``monolith``: the official single file.
- ``split``: ComfyUI's files, in the folders under ``models`` that they belong to (spec/09 §3, §4).
- ``diffusers``: see `export_diffusers`.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...errors import OverlayError
from ..bytes.endings import TOKENIZER_MODEL
from ..bytes.header import read_header
from ..bytes.source import AnyRef, TensorRef
from ..manifest import ComponentEntry, Overlay
from ..names.layout import OFFICIAL
from .diffusers import diffusers_files
from .files import OutputFile, joined, stored_tensors, weights_file, whole_file

_LORA = "diffusion_model."
_PART_OF_NAME = re.compile(r"[_-](transformer_only|diffusion_model).*$")

# File of the split layout -> its components, and the prefix of the official file that ComfyUI does not expect there.
_SPLIT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("diffusion_models/{stem}_transformer_only.safetensors", ("transformer", "connectors"), ""),
    ("text_encoders/{stem}_text_projection.safetensors", ("text_projection",), ""),
    ("vae/{stem}_video_vae.safetensors", ("video_encoder", "video_decoder"), "vae."),
    ("vae/{stem}_audio_vae.safetensors", ("audio_encoder", "audio_decoder", "vocoder"), ""),
)
# Part of the metadata ``config`` -> the component whose configuration it is, but for keys that begin so: another's.
_CONFIGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "transformer": ("transformer", "connectors", ("connector_", "audio_connector_")),
    "vae": ("video_decoder", "video_encoder", ("encoder_",)),
    "audio_vae": ("audio_decoder", "audio_decoder", ()), "vocoder": ("vocoder", "vocoder", ()),
}
# A Gemma folder's names of all but the language model -> ComfyUI's; the first prefix that fits counts.
_VISION = (("model.vision_tower.vision_model.", "vision_model."), ("vision_tower.vision_model.", "vision_model."),
           ("model.vision_tower.", "vision_model."), ("vision_tower.", "vision_model."),
           ("model.multi_modal_projector.", "multi_modal_projector."))


def _monolith(overlay: Overlay, shard_bytes: int) -> list[OutputFile]:
    return [weights_file(f"{_stem(overlay)}.safetensors", _official(overlay, OFFICIAL.components),
                         _full_metadata(overlay))]


def _split(overlay: Overlay, shard_bytes: int) -> list[OutputFile]:
    files = []
    for name, components, strip in _SPLIT:
        tensors = {}
        for key, ref in _official(overlay, components).items():
            tensors[key.removeprefix(strip)] = ref
        metadata = {"model_version": overlay.model_version, "config": _text(_parts(overlay, components))}
        files.append(weights_file(name.format(stem=_stem(overlay)), tensors, metadata))
    if "text_encoder" in overlay.components:
        files.append(_comfy_gemma(overlay))
    for component, entry in sorted(overlay.components.items()):
        if component.startswith("upsampler_"):
            metadata = {**_stored_metadata(entry), "config": _text(entry.config)}
            files.append(weights_file(f"latent_upscale_models/{_companion_name(entry, component)}.safetensors",
                                      stored_tensors(overlay, component), metadata))
    if lora := overlay.components.get("distilled_lora"):
        tensors = _prefixed(_LORA, stored_tensors(overlay, "distilled_lora"))
        files.append(weights_file(f"loras/{_companion_name(lora, 'distilled-lora')}.safetensors", tensors,
                                  _stored_metadata(lora)))
    return files


LAYOUTS: dict[str, Callable[[Overlay, int], list[OutputFile]]] = {
    "diffusers": diffusers_files, "monolith": _monolith, "split": _split}


def _official(overlay: Overlay, components: Iterable[str]) -> dict[str, AnyRef]:
    """The tensors of components under the keys of the official file."""
    parts = []
    for component in components:
        part = {}
        for name, ref in stored_tensors(overlay, component).items():
            part[_official_key(component, name)] = ref
        parts.append(part)
    return joined(*parts)


def _official_key(component: str, name: str) -> str:
    found = []
    for prefix, places in OFFICIAL.prefixes.items():
        for place, keep in places:
            if place == component and name.startswith(keep):
                found.append((keep, prefix))
    keep, prefix = max(found, key=lambda each: len(each[0]))
    return prefix + name[len(keep):]


def _parts(overlay: Overlay, components: Iterable[str]) -> dict[str, Any]:
    """The parts of the metadata ``config`` that describe components, which may come from several files."""
    parts: dict[str, Any] = {}
    for part in dict.fromkeys(map(OFFICIAL.config.__getitem__, components)):
        owner, guest, keys = _CONFIGS[part]
        values: dict[str, Any] = {}
        for key, value in overlay.require(owner).config.items():
            if not key.startswith(keys):
                values[key] = value
        for key, value in overlay.require(guest).config.items():
            if key.startswith(keys):
                values[key] = value
        parts[part] = values
    return parts


def _full_metadata(overlay: Overlay) -> dict[str, str]:
    """Metadata of the official file: the checkpoint's own, word for word, as far as it says the same."""
    stored = _stored_metadata(overlay.require("transformer"))
    try:
        known = dict(json.loads(stored["config"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        stored, known = {}, {}
    config = known | _parts(overlay, OFFICIAL.components)
    metadata = dict(stored)
    if config != known:
        metadata["config"] = _text(config)
    metadata.setdefault("model_version", overlay.model_version)
    return metadata


def _text(value: dict[str, Any]) -> str:
    """JSON that does not depend on where the overlay comes from: its manifest is sorted."""
    return json.dumps(value, sort_keys=True)


def _stored_metadata(entry: ComponentEntry) -> dict[str, str]:
    """Metadata of the file that a component comes from; none if that is no safetensors file."""
    try:
        return read_header(next(iter(entry.tensors.values())).path).metadata
    except OverlayError:
        return {}


def _comfy_gemma(overlay: Overlay) -> OutputFile:
    """Gemma as one file with the tokenizer inside, as ComfyUI reads it."""
    tensors = _prefixed("model.", stored_tensors(overlay, "text_encoder"))
    if "text_encoder_vision" in overlay.components:
        for name, ref in stored_tensors(overlay, "text_encoder_vision").items():
            tensors[_vision_name(name)] = ref
    folder = overlay.tokenizer
    if "tokenizer" in overlay.components:  # the source is such a file itself
        tensors |= overlay.components["tokenizer"].tensors
    elif folder is not None and (folder / TOKENIZER_MODEL).is_file():
        (part,) = whole_file("", folder / TOKENIZER_MODEL).ranges
        tensors["spiece_model"] = TensorRef(part.source.path, "U8", (part.end,), 0, part.end, part.source)
    path = next(iter(overlay.require("text_encoder").tensors.values())).path
    name = "gemma-3"
    for known in (path.parent.name, path.stem):
        if "gemma" in known.lower():
            name = known
    return weights_file(f"text_encoders/{name}.safetensors", tensors, {"format": "pt"})


def _prefixed(prefix: str, tensors: Mapping[str, AnyRef]) -> dict[str, AnyRef]:
    return {prefix + name: ref for name, ref in tensors.items()}


def _vision_name(name: str) -> str:
    for old, new in _VISION:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


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
