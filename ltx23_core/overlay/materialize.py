"""From the user's files to an overlay: headers are read, everything is checked, a manifest is written."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OverlayError
from .bytes.endings import SAFETENSORS
from .bytes.source import SourceFile, refusing_unreadable
from .find.companions import check_upsampler, find_upsampler, read_distilled_lora
from .find.folders import find
from .find.found import Found, kind_of
from .find.resolve import Resolved, resolve_all
from .find.text_encoder import TEXT_PARTS, check_matches, find_text_encoder
from .garbage import no_collection
from .manifest import VARIANTS, ComponentEntry, Overlay, encode, save, to_content
from .names.architecture import Shapes
from .names.layout import CONFIG
from .names.variant import DEV, variant_of

AnyPath = str | os.PathLike[str]
MINIMUM = ("one checkpoint (46 GB) or transformer, text projection, video VAE and audio VAE as files of "
           "their own; always Gemma 3 12B; for two stages ltx-2.3-spatial-upscaler-x2-1.1.safetensors (1.0 "
           "GB) and, with dev weights, a distilled LoRA (7.6 GB)")


@no_collection()
@refusing_unreadable()
def materialize(checkpoint: AnyPath, text_encoder: AnyPath | None = None, *, upsamplers: Iterable[AnyPath] = (),
                distilled_lora: AnyPath | None = None, components: Iterable[AnyPath] = (), variant: str = "auto",
                output: AnyPath | None = None) -> Overlay:
    """Describe the user's files as one model. Reads headers only; writes a manifest of about a megabyte.

    Args:
        checkpoint: a file or a folder of any layout: the official single file in bf16, fp8 or NVFP4, a transformer
            alone, a diffusers folder, a folder of split files.
        text_encoder: the Gemma 3 folder or a single file of it; without one the overlay cannot encode prompts. A
            text projection that was saved with it is taken only where no other source brings one.
        upsamplers: latent upscaler files, each of another kind.
        distilled_lora: the LoRA that lets a dev checkpoint run distilled recipes.
        components: further files or folders. Each adds or replaces the components that it brings; the last counts.
        variant: "dev", "distilled", or "auto": by a diffusers scheduler or the name of the transformer's file, since
            nothing inside weights tells.
        output: the manifest; default ``<checkpoint>.ltx23.json`` beside the checkpoint.

    Raises:
        OverlayError: a file is missing, damaged, another model's, or does not fit; then nothing is written.
    """
    if variant not in ("auto", *VARIANTS):
        raise OverlayError(f"variant is {variant!r}", f"one of auto, {', '.join(VARIANTS)}", "Use auto.")
    path = _absolute(checkpoint)
    parts, places = _Parts(), [path, *map(_absolute, components)]
    tokenizers = [place for place in places if place.is_dir()]
    for place in places:
        parts.add_all(find(place, tokenizers))
    if text_encoder is not None:
        encoder = find_text_encoder(_absolute(text_encoder), tokenizers)
        parts.add(encoder.without([name for name in parts.chosen if name not in TEXT_PARTS]))
    if "transformer" not in parts.chosen:
        raise _no_transformer(parts.found)
    entries, shapes = parts.entries([find_upsampler(_absolute(file)) for file in upsamplers])
    if distilled_lora is not None:
        lora = read_distilled_lora(_absolute(distilled_lora), shapes)
        entries["distilled_lora"] = ComponentEntry({}, lora.tensors)
        parts.sources.append(lora.source)
        parts.notes += lora.notes
    transformer = parts.chosen["transformer"]
    chosen = _variant(transformer) if variant == "auto" else variant
    target = path.with_name(path.name + ".ltx23.json") if output is None else _absolute(output)
    content = (chosen, transformer.version or "2.3", parts.layout, parts.used_sources(entries), entries,
               parts.tokenizer, tuple(parts.notes))
    text, id = encode(to_content(*content))
    save(target, text)
    return Overlay(target, id, *content)


def _absolute(path: AnyPath) -> Path:
    return Path(os.path.abspath(path))


@dataclass
class _Parts:
    """What has been found so far, and who brings each component: the last one."""

    found: list[Found] = field(default_factory=list)
    chosen: dict[str, Found] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: list[SourceFile] = field(default_factory=list)

    def add_all(self, found: Iterable[Found]) -> None:
        for part in found:
            self.add(part)

    def add(self, part: Found) -> None:
        self.found.append(part)
        self.notes += part.notes
        if part.leftover:
            self.notes.append(f"not used of {part.path.name}: {len(part.leftover)} tensors of no component "
                              f"({', '.join(part.leftover[:3])})")
        replaced: dict[str, list[str]] = {}
        for name in part.components:
            if name in self.chosen:
                replaced.setdefault(str(self.chosen[name].path), []).append(name)
        if "text_encoder" in part.components:  # vision and tokenizer go with it
            self.chosen = {n: f for n, f in self.chosen.items() if n not in ("text_encoder_vision", "tokenizer")}
        self.chosen |= dict.fromkeys(part.components, part)
        self.notes += [f"{', '.join(names)} of {old} replaced by {part.path}" for old, names in replaced.items()]

    @property
    def layout(self) -> str:
        """How the components are stored, the transformer's first."""
        return " + ".join(dict.fromkeys(self.chosen[name].layout for name in CONFIG if name in self.chosen))

    @property
    def tokenizer(self) -> Path | None:
        encoder = self.chosen.get("text_encoder")
        return None if encoder is None else encoder.tokenizer

    def entries(self, upsamplers: Sequence[Found]) -> tuple[dict[str, ComponentEntry], Shapes]:
        """Every component checked, and the shapes of the transformer."""
        resolved = resolve_all(self.chosen, self.found)
        entries = {name: ComponentEntry(part.config, part.tensors) for name, part in resolved.items()}
        self.notes += _origins(self.chosen, resolved)
        encoder = self.chosen.get("text_encoder")
        if encoder is not None:
            if "text_projection" in entries:
                projection = entries["text_projection"].config
                check_matches(encoder, projection["caption_channels"], projection["in_features"])
            for name in TEXT_PARTS:
                if self.chosen.get(name) is encoder:
                    config = encoder.config["text_encoder"] if name == "text_encoder" else {}
                    entries[name] = ComponentEntry(config, encoder.components[name])
        entries |= self._upsamplers(upsamplers, resolved["transformer"].config["in_channels"])
        return entries, resolved["transformer"].shapes

    def _upsamplers(self, upsamplers: Sequence[Found], channels: int) -> dict[str, ComponentEntry]:
        """Those of folders, and those that were given, which count."""
        bundled = [found for name, found in self.chosen.items() if name.startswith("upsampler")]
        entries: dict[str, ComponentEntry] = {}
        given: dict[str, Path] = {}
        for number, found in enumerate((*bundled, *upsamplers)):
            name, config = check_upsampler(found, channels)
            if name in given:
                raise OverlayError(f"{found.path} and {given[name]} are both {name}", "one file of each kind",
                                   "Leave out one of them.")
            entries[name] = ComponentEntry(config, next(iter(found.components.values())))
            if number >= len(bundled):
                given[name] = found.path
                self.add(found)
        return entries

    def used_sources(self, entries: Mapping[str, ComponentEntry]) -> tuple[SourceFile, ...]:
        """The files that the overlay relies on, each once: weights that are used, and side files of these sources."""
        used = {ref.path for entry in entries.values() for ref in entry.tensors.values()}
        ours = {id(found) for found in self.chosen.values()}
        sources = [source for found in self.found if id(found) in ours for source in found.sources
                   if source.path in used or not source.path.name.lower().endswith(SAFETENSORS)]
        return tuple({source.path: source for source in (*sources, *self.sources)}.values())


def _origins(chosen: Mapping[str, Found], resolved: Mapping[str, Resolved]) -> list[str]:
    """Where configurations come from that the files themselves do not state."""
    origins: dict[tuple[str, str], list[str]] = {}
    for name, part in resolved.items():
        if part.origin is not None and name != "text_projection":  # whose shapes say all
            origins.setdefault((chosen[name].path.name, part.origin), []).append(name)
    return [f"{file} has no configuration for {', '.join(names)}: {origin} fits its tensors and was taken"
            for (file, origin), names in origins.items()]


def _no_transformer(found: Sequence[Found]) -> OverlayError:
    what = "; ".join(f"{part.path} is {kind_of(part.files)}" for part in found) or "a tokenizer alone was given"
    return OverlayError(f"there is no transformer: {what}", MINIMUM,
                        "Add the transformer: give its file or folder as checkpoint, the others as "
                        "components.")


def _variant(transformer: Found) -> str:
    """What names and the scheduler say of the transformer (`names.variant`); dev where they say nothing."""
    headers = transformer.files.headers
    place = transformer.files.folder if len(headers) > 1 else headers[0].path
    return variant_of(place).name or DEV
