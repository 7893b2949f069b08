"""Where the tensors of each component stand in a file, as data (spec/01 §2). A new layout is a new table.

A `Layout` turns a key of the user's file into places: (component, name of the parameter). Everything behind it
(checks, manifest, reading) works with component names alone and never sees a key of a file.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .header import Header
from .source import TensorRef

Place = tuple[str, str]  # component, prefix of the parameter name

_STATISTICS = re.compile(r"per_channel_statistics\.(?!(mean-of-means|std-of-means)$)")  # old files carry more; unused


@dataclass(frozen=True)
class Layout:
    """One way to store an LTX-2.3 model.

    Args:
        name: for the manifest and the report.
        prefixes: prefix of the file's key -> where it goes; the longest prefix that fits counts.
        config: component -> part of the metadata ``config`` that describes it.
    """

    name: str
    prefixes: Mapping[str, tuple[Place, ...]]
    config: Mapping[str, str]

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that a complete file of this layout brings."""
        return tuple(dict.fromkeys(component for places in self.prefixes.values() for component, _ in places))

    def places(self, key: str) -> list[Place]:
        """Where one key goes, as (component, parameter name); empty if the layout has no such key."""
        fitting = [prefix for prefix in self.prefixes if key.startswith(prefix)]
        if not fitting:
            return []
        prefix = max(fitting, key=len)
        return [(component, keep + key[len(prefix):]) for component, keep in self.prefixes[prefix]]

    def split(self, header: Header) -> tuple[dict[str, dict[str, TensorRef]], list[str]]:
        """Sort a file's tensors into components.

        Returns:
            component -> parameter name -> tensor, and the keys that belong nowhere.
        """
        components: dict[str, dict[str, TensorRef]] = {name: {} for name in self.components}
        unknown = []
        for key, ref in header.tensors.items():
            if _STATISTICS.search(key):
                continue
            places = self.places(key)
            for component, name in places:
                components[component][name] = ref
            if not places:
                unknown.append(key)
        return components, unknown


OFFICIAL = Layout(
    name="official single file",
    prefixes={
        "model.diffusion_model.": (("transformer", ""),),
        "model.diffusion_model.video_embeddings_connector.": (("connectors", "video_embeddings_connector."),),
        "model.diffusion_model.audio_embeddings_connector.": (("connectors", "audio_embeddings_connector."),),
        "text_embedding_projection.": (("text_projection", ""),),
        "vae.encoder.": (("video_encoder", ""),),
        "vae.decoder.": (("video_decoder", ""),),
        "vae.per_channel_statistics.": (("video_encoder", "per_channel_statistics."),
                                        ("video_decoder", "per_channel_statistics.")),
        "audio_vae.encoder.": (("audio_encoder", ""),),
        "audio_vae.decoder.": (("audio_decoder", ""),),
        "audio_vae.per_channel_statistics.": (("audio_encoder", "per_channel_statistics."),
                                              ("audio_decoder", "per_channel_statistics.")),
        "vocoder.": (("vocoder", ""),),
    },
    config={"transformer": "transformer", "connectors": "transformer", "text_projection": "transformer",
            "video_encoder": "vae", "video_decoder": "vae", "audio_encoder": "audio_vae",
            "audio_decoder": "audio_vae", "vocoder": "vocoder"},
)

# The prefixes of a Hugging Face Gemma before embed_tokens, layers and norm, longest first (spec/09 §4).
GEMMA_PREFIXES = ("model.language_model.model.", "model.language_model.", "language_model.model.", "language_model.",
                  "model.", "")
_GEMMA_TEXT = re.compile(r"(embed_tokens|norm)\.weight$|layers\.\d+\.")
_GEMMA_HEAD = re.compile(r"(^|\.)lm_head\.")  # tied to the embedding


def split_gemma(tensors: Iterable[tuple[str, TensorRef]]) -> tuple[dict[str, TensorRef], dict[str, TensorRef]]:
    """Sort Gemma's tensors into the text model (names of transformers' Gemma3TextModel) and all others (vision)."""
    text: dict[str, TensorRef] = {}
    others: dict[str, TensorRef] = {}
    for key, ref in tensors:
        bare = key.removeprefix("module.")
        name = next((bare[len(p):] for p in GEMMA_PREFIXES if bare.startswith(p) and _GEMMA_TEXT.match(bare[len(p):])),
                    None)
        if name is not None:
            text[name] = ref
        elif not _GEMMA_HEAD.search(bare):
            others[bare] = ref
    return text, others
