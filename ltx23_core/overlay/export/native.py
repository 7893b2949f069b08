"""What ComfyUI's own loaders read of LTX-2.3: the tensors of each of its files under its names, with metadata.

Where the files of an export and what `bridge` hands on in memory come from (spec/09 §3, §4).
"""
from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..bytes.endings import TOKENIZER_MODEL
from ..bytes.source import AnyRef, SourceFile, TensorRef
from ..manifest import Overlay
from ..names.gemma import TOKENIZER
from ..names.layout import OFFICIAL
from .files import joined, stored_tensors

# File -> its components, and the prefix of the official file that ComfyUI does not expect there.
MODEL, PROJECTION, VIDEO_VAE, AUDIO_VAE = "transformer_only", "text_projection", "video_vae", "audio_vae"
FILES: dict[str, tuple[tuple[str, ...], str]] = {
    MODEL: (("transformer", "connectors"), ""),
    PROJECTION: (("text_projection",), ""),
    VIDEO_VAE: (("video_encoder", "video_decoder"), "vae."),
    AUDIO_VAE: (("audio_encoder", "audio_decoder", "vocoder"), ""),
}
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
Tensors = Callable[[Overlay, str], Mapping[str, AnyRef]]  # those of a component, by its name


@dataclass(frozen=True)
class NativeFile:
    """One of ComfyUI's files, before its bytes.

    Attributes:
        tensors: under ComfyUI's names.
        metadata: of the header, less what it says of quantisation (`packed.unpacked`).
    """

    tensors: dict[str, AnyRef]
    metadata: dict[str, str]


def native_file(overlay: Overlay, file: str, tensors_of: Tensors = stored_tensors) -> NativeFile:
    """A file of weights.

    Args:
        overlay: the model.
        file: a key of `FILES`.
        tensors_of: gives the tensors of a component; the default refuses what no file of ComfyUI's can hold.

    Raises:
        OverlayError: a component is missing; connectors may be.
        ExportError: two halves of a VAE do not belong together, or of `stored_tensors`.
    """
    components, strip = FILES[file]
    if "connectors" not in overlay.components:  # "light" files have none: what is written of one has none either
        components = tuple(name for name in components if name != "connectors")
    tensors = {}
    for key, ref in official(overlay, components, tensors_of).items():
        tensors[key.removeprefix(strip)] = ref
    metadata = {"model_version": overlay.model_version, "config": text(configs(overlay, components))}
    return NativeFile(tensors, metadata)


def native_gemma(overlay: Overlay, tensors_of: Tensors = stored_tensors) -> NativeFile:
    """Gemma as one file, with the tokenizer inside where it is a SentencePiece model."""
    tensors = prefixed("model.", tensors_of(overlay, "text_encoder"))
    if "text_encoder_vision" in overlay.components:
        for name, ref in tensors_of(overlay, "text_encoder_vision").items():
            tensors[_vision_name(name)] = ref
    folder = overlay.tokenizer
    if "tokenizer" in overlay.components:  # the source is such a file itself
        tensors |= overlay.components["tokenizer"].tensors
    elif folder is not None and (folder / TOKENIZER_MODEL).is_file():
        source = SourceFile.of(folder / TOKENIZER_MODEL)
        tensors[TOKENIZER] = TensorRef(source.path, "U8", (source.size,), 0, source.size, source)
    return NativeFile(tensors, {"format": "pt"})


def official(overlay: Overlay, components: Iterable[str], tensors_of: Tensors = stored_tensors) -> dict[str, AnyRef]:
    """The tensors of components under the keys of the official file."""
    parts = []
    for component in components:
        part = {}
        for name, ref in tensors_of(overlay, component).items():
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


def configs(overlay: Overlay, components: Collection[str]) -> dict[str, Any]:
    """The parts of the metadata ``config`` that describe components, which may come from several files."""
    parts: dict[str, Any] = {}
    for part in dict.fromkeys(map(OFFICIAL.config.__getitem__, components)):
        owner, guest, keys = _CONFIGS[part]
        values: dict[str, Any] = {}
        for key, value in overlay.require(owner).config.items():
            if not key.startswith(keys):
                values[key] = value
        if guest not in components:  # a file of its own may bring it, and be described here
            guest = owner
        for key, value in overlay.require(guest).config.items():
            if key.startswith(keys):
                values[key] = value
        parts[part] = values
    return parts


def text(value: dict[str, Any]) -> str:
    """JSON that does not depend on where the overlay comes from: its manifest is sorted."""
    return json.dumps(value, sort_keys=True)


def prefixed(prefix: str, tensors: Mapping[str, AnyRef]) -> dict[str, AnyRef]:
    """The tensors with something in front of each name."""
    return {prefix + name: ref for name, ref in tensors.items()}


def _vision_name(name: str) -> str:
    for old, new in _VISION:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
