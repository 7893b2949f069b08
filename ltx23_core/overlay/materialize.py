"""From the user's files to an overlay: headers are read, everything is checked, a manifest is written."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ConnectorConfig
from ..errors import OverlayError
from .architecture import Shapes, differences, examples, expected_tensors
from .companions import metadata_json, read_distilled_lora, read_upsampler
from .header import read_header
from .layout import OFFICIAL, Layout
from .manifest import VARIANTS, ComponentEntry, Overlay, encode, save, to_content
from .recognise import CHECKPOINT, OFFICIAL_FILE, recognise
from .source import SourceFile, TensorRef
from .text_encoder import check_matches, read_text_encoder

AnyPath = str | os.PathLike[str]
_GET = f"Use {OFFICIAL_FILE}."


def materialize(checkpoint: AnyPath, text_encoder: AnyPath | None = None, *, upsamplers: Iterable[AnyPath] = (),
                distilled_lora: AnyPath | None = None, variant: str = "auto",
                output: AnyPath | None = None) -> Overlay:
    """Describe the user's files as one model. Reads headers only; writes a manifest of about a megabyte.

    Args:
        checkpoint: the official single file.
        text_encoder: the Gemma 3 folder; without it the overlay cannot encode prompts.
        upsamplers: latent upscaler files, each of another kind.
        distilled_lora: the LoRA that lets a dev checkpoint run distilled recipes.
        variant: "dev", "distilled", or "auto": by the checkpoint's file name, since nothing inside tells.
        output: the manifest; default ``<checkpoint>.ltx23.json`` beside the checkpoint.

    Raises:
        OverlayError: a file is missing, damaged, another model's, or does not fit; then nothing is written.
    """
    if variant not in ("auto", *VARIANTS):
        raise OverlayError(f"variant is {variant!r}", f"one of auto, {', '.join(VARIANTS)}", "Use auto.")
    path = _absolute(checkpoint)
    parts = _Parts()
    version, transformer = _add_checkpoint(parts, path, OFFICIAL)
    tokenizer = None if text_encoder is None else _add_text_encoder(parts, _absolute(text_encoder))
    for file in upsamplers:
        _add_upsampler(parts, _absolute(file))
    if distilled_lora is not None:
        tensors, header = read_distilled_lora(_absolute(distilled_lora), transformer)
        parts.add(header.source, {"distilled_lora": ComponentEntry({}, tensors)})
    if variant == "auto":
        variant = "distilled" if "distilled" in path.name.lower() else "dev"
    target = path.with_name(path.name + ".ltx23.json") if output is None else _absolute(output)
    content = (variant, version, OFFICIAL.name, tuple(parts.sources), parts.components, tokenizer)
    text, id = encode(to_content(*content))
    save(target, text)
    return Overlay(target, id, *content)


@dataclass
class _Parts:
    """What has been found so far."""

    sources: list[SourceFile] = field(default_factory=list)
    components: dict[str, ComponentEntry] = field(default_factory=dict)

    def add(self, source: SourceFile, components: Mapping[str, ComponentEntry] | None = None) -> None:
        self.sources.append(source)
        self.components.update(components or {})


def _absolute(path: AnyPath) -> Path:
    return Path(os.path.abspath(path))


def _add_checkpoint(parts: _Parts, path: Path, layout: Layout) -> tuple[str, Shapes]:
    """Check the checkpoint and add its components; gives the model version and the transformer's shapes."""
    header = read_header(path)
    kind = recognise(header.tensors)
    if kind.name != CHECKPOINT:
        raise OverlayError(f"{path} is {kind.name}", CHECKPOINT, kind.fix)
    config = metadata_json(header, "config", _GET)
    components, unknown = layout.split(header)
    problems = [f"{len(unknown)} tensors of no component ({examples(unknown)})"] if unknown else []
    entries, shapes = {}, {}
    for name, tensors in components.items():
        part = _part(path, config, layout.config[name])
        if name == "text_projection":
            part = _projection_config(path, part, tensors)
        shapes[name] = expected_tensors(name, part, path)
        problems += differences(name, shapes[name], tensors)
        entries[name] = ComponentEntry(part, tensors)
    if problems:
        raise OverlayError(f"{path}: " + "; ".join(problems), "the tensors that the file's own config describes",
                           f"Download the file again, or another one: {OFFICIAL_FILE}.")
    parts.add(header.source, entries)
    return header.metadata.get("model_version", "2.3"), shapes["transformer"]


def _part(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(config.get(name), dict):
        raise OverlayError(f"the config of {path} has no part {name!r}", "config.transformer, .vae, .audio_vae and "
                           ".vocoder in the metadata, as in the official file", _GET)
    return config[name]


def _projection_config(path: Path, transformer: Mapping[str, Any], tensors: Mapping[str, TensorRef]) -> dict[str, int]:
    """Fields of `TextProjectionConfig`: the columns of the weight say how many layers Gemma has."""
    weight = tensors.get("video_aggregate_embed.weight")
    channels = transformer.get("caption_channels")
    if weight is None or len(weight.shape) != 2 or type(channels) is not int or channels < 1:
        raise OverlayError(f"{path} has no text projection (text_embedding_projection.video_aggregate_embed.weight "
                           f"with caption_channels, here {channels!r})", "the official file's text projection", _GET)
    if weight.shape[1] % channels:
        raise OverlayError(f"{path} has a text projection of {weight.shape[1]} columns",
                           f"a multiple of caption_channels ({channels})", _GET)
    video, audio = (ConnectorConfig.from_dict(transformer, audio=audio).width for audio in (False, True))
    return {"caption_channels": channels, "in_features": weight.shape[1], "video_features": video,
            "audio_features": audio}


def _add_text_encoder(parts: _Parts, path: Path) -> Path:
    """Check the Gemma folder against the checkpoint and add it; gives the tokenizer's folder."""
    encoder = read_text_encoder(path)
    projection = parts.components["text_projection"].config
    check_matches(encoder, projection["caption_channels"], projection["in_features"])
    for source in [*(header.source for header in encoder.headers), *map(SourceFile.of, encoder.side_files)]:
        parts.add(source)
    parts.components["text_encoder"] = ComponentEntry(encoder.config, encoder.tensors)
    if encoder.vision:
        parts.components["text_encoder_vision"] = ComponentEntry({}, encoder.vision)
    return encoder.folder


def _add_upsampler(parts: _Parts, path: Path) -> None:
    component, config, header = read_upsampler(path, parts.components["video_decoder"].config["latent_channels"])
    if component in parts.components:
        other = next(iter(parts.components[component].tensors.values())).path
        raise OverlayError(f"{path} and {other} are both {component}", "one file of each kind",
                           "Leave out one of them.")
    parts.add(header.source, {component: ComponentEntry(config, header.tensors)})
