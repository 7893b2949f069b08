"""Where the tensors of each component stand in a file, as data (spec/01 §2, §3.1, 09 §3). A new layout is a new table.

A `Layout` turns a key of the user's file into places: (component, name of the parameter). Everything behind it
(checks, manifest, reading) works with component names alone and never sees a key of a file.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..bytes.source import AnyRef
from ..packed.layers import HeaderLike, gather
from .renames import FOLDERS, to_official

Place = tuple[str, str]  # component, prefix of the parameter name
Tensors = dict[str, AnyRef]

_STATISTICS = re.compile(r"per_channel_statistics\.(?!(mean-of-means|std-of-means)$)")  # old files carry more; unused
_BLOCK = re.compile(r"\b(transformer_blocks|transformer_1d_blocks|layers)\.\d+\.")


@dataclass(frozen=True)
class Match:
    """What a file is.

    Args:
        layout: name of the table that fits.
        components: component -> parameter name -> tensor.
        leftover: keys that belong to no component.
    """

    layout: str
    components: dict[str, Tensors]
    leftover: list[str]


@dataclass(frozen=True)
class Layout:
    """One way to store parts of an LTX-2.3 model.

    Args:
        name: for the manifest and the report.
        has: a file of this layout has names that match each of these patterns; block numbers are 0.
        lacks: and none that match one of these.
        prefixes: prefix of the file's key -> where it goes; the longest prefix that fits counts.
        diffusers: folder of a diffusers pipeline whose renames apply first (`renames.FOLDERS`).
    """

    name: str
    has: tuple[str, ...]
    prefixes: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    diffusers: str | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that a complete file of this layout brings."""
        named = tuple(component for places in self.prefixes.values() for component, _ in places)
        return tuple(dict.fromkeys((*(FOLDERS[self.diffusers] if self.diffusers else ()), *named)))

    @property
    def config(self) -> dict[str, str]:
        """Component -> part of the metadata ``config`` that describes it."""
        return {name: CONFIG[name] for name in self.components}

    def fits(self, names: str) -> bool:
        """Whether a file with these names, one a line, is of this layout."""
        return all(re.search(p, names, re.M) for p in self.has) and not any(
            re.search(p, names, re.M) for p in self.lacks)

    def places(self, key: str) -> list[Place]:
        """Where one key goes, as (component, parameter name); empty if the layout has no such key."""
        if self.diffusers:
            renamed = ((name, to_official(name, key)) for name in FOLDERS[self.diffusers])
            if places := [(component, name) for component, name in renamed if name is not None]:
                return places
        fitting = [prefix for prefix in self.prefixes if key.startswith(prefix)]
        if not fitting:
            return []
        prefix = max(fitting, key=len)
        return [(component, keep + key[len(prefix):]) for component, keep in self.prefixes[prefix]]

    def split(self, tensors: Mapping[str, AnyRef]) -> tuple[dict[str, Tensors], list[str]]:
        """Sort a file's tensors into components.

        Returns:
            component -> parameter name -> tensor for each component that has tensors of its own (the statistics of
            a VAE alone make no encoder), and the keys that belong nowhere.
        """
        components: dict[str, Tensors] = {name: {} for name in self.components}
        own, unknown = set(), []
        for key, ref in tensors.items():
            if _STATISTICS.search(key):
                continue
            places = self.places(key)
            for component, name in places:
                components[component][name] = ref
            if len(places) == 1:
                own.add(places[0][0])
            elif not places:
                unknown.append(key)
        return {name: found for name, found in components.items() if name in own}, unknown


def _transformer(prefix: str) -> dict[str, tuple[Place, ...]]:
    """Transformer and connectors behind one prefix."""
    return {prefix: (("transformer", ""),), **{
        f"{prefix}{kind}_embeddings_connector.": (("connectors", f"{kind}_embeddings_connector."),)
        for kind in ("video", "audio")}}


def _vae(prefix: str, kind: str) -> dict[str, tuple[Place, ...]]:
    """Encoder, decoder, and the statistics that both need."""
    encoder, decoder = f"{kind}_encoder", f"{kind}_decoder"
    return {f"{prefix}encoder.": ((encoder, ""),), f"{prefix}decoder.": ((decoder, ""),),
            f"{prefix}per_channel_statistics.": ((encoder, "per_channel_statistics."),
                                                 (decoder, "per_channel_statistics."))}


_PROJECTION: dict[str, tuple[Place, ...]] = {
    "text_embedding_projection.": (("text_projection", ""),),
    **{f"{kind}_aggregate_embed.": (("text_projection", f"{kind}_aggregate_embed."),) for kind in ("video", "audio")}}

OFFICIAL = Layout(
    name="official single file",
    has=(r"^(model\.diffusion_model|text_embedding_projection|vae\.(en|de)coder|audio_vae\.(en|de)coder"
         r"|vocoder\.(vocoder|bwe_generator))\.",),
    prefixes={**_transformer("model.diffusion_model."), "text_embedding_projection.": (("text_projection", ""),),
              **_vae("vae.", "video"), **_vae("audio_vae.", "audio"), "vocoder.": (("vocoder", ""),)},
)
SPLIT = "split file"  # the official names, but only some of the components
GEMMA = Layout("Gemma 3", (r"layers\.0\.post_feedforward_layernorm\.weight$",
                           r"layers\.0\.self_attn\.q_norm\.weight$"),
               lacks=(r"layer_scalar$", r"embed_tokens_per_layer", r"^tokenizer_json$", r"adaln_single\."))
UPSCALER = Layout("latent upscaler", (r"^post_upsample_res_blocks\.", r"^initial_conv\.weight$"))
TOKENIZER = "spiece_model"  # ComfyUI's Gemma files carry the bytes of tokenizer.model

LAYOUTS: tuple[Layout, ...] = (
    GEMMA, UPSCALER,
    Layout("diffusers transformer", (r"^audio_time_embed\.", r"^proj_in\."), diffusers="transformer"),
    Layout("diffusers connectors", (r"^(video|audio)_(connector|text_proj_in)\.",), diffusers="connectors",
           prefixes={key: place for key, place in _transformer("").items() if key} | _PROJECTION),
    Layout("diffusers video VAE", (r"^(encoder|decoder)\.mid_block\.resnets\.",), diffusers="vae"),
    Layout("diffusers audio VAE", (r"^latents_mean$", r"^(encoder\.down|decoder\.up)\.0\.block\."),
           diffusers="audio_vae"),
    Layout("diffusers vocoder", (r"^(vocoder|bwe_generator)\.upsamplers\.",), diffusers="vocoder"),
    *(Layout(f"transformer under {prefix}" if prefix else "transformer without prefix",
             (rf"^{re.escape(prefix)}audio_adaln_single\.",), _transformer(prefix) | _PROJECTION)
      for prefix in ("diffusion_model.", "model.model.", "net.", "model.", "")),
    OFFICIAL,
    Layout("connectors without prefix", (r"^(video|audio)_embeddings_connector\.",),
           {key: place for key, place in _transformer("").items() if key} | _PROJECTION),
    Layout("text projection without prefix", (r"^(video|audio)_aggregate_embed\.",), _PROJECTION),
    Layout("vocoder without prefix", (r"^bwe_generator\.",), {"": (("vocoder", ""),)}),
    Layout("video VAE without prefix", (r"^(decoder\.up_blocks|encoder\.down_blocks)\.0\.res_blocks\.",),
           _vae("", "video")),
    Layout("audio VAE without prefix", (r"^(encoder\.down|decoder\.up)\.0\.block\.",), _vae("", "audio")),
)

# Component -> part of the metadata ``config`` that describes it.
CONFIG = {"transformer": "transformer", "connectors": "transformer", "text_projection": "transformer",
          "video_encoder": "vae", "video_decoder": "vae", "audio_encoder": "audio_vae", "audio_decoder": "audio_vae",
          "vocoder": "vocoder"}

# Names (and what must stand beside them) of LoRAs and of models that are not LTX-2.3: these have no layout here.
_OTHERS = ((r"(\.|_)(lora_[AB]|lora_up|lora_down|lokr_w[12]|hada_w[12]_a|oft_R|diff)(\.|_|$)", None),
           (r"caption_projection\.", None), (r"keyframes_abs_pos_embedding", None), (r"^duration_head\.", None),
           (r"text_embedding_projection\.(aggregate_embed\.|weight$)", None),
           (r"audio_(adaln_single|time_embed)\.", r"(^|\.)prompt_adaln(_single)?\."),
           (r"(^|\.)prompt_adaln(_single)?\.", r"audio_(adaln_single|time_embed)\."),
           (r"\btransformer_blocks\.0\.ff\.net\.2\.weight", r"\btransformer_blocks\.0\.ff\.net\.2\.bias"))


def match(header: HeaderLike) -> Match | None:
    """What a file is, by its tensor names alone; None if it is no part of LTX-2.3.

    Quantised weights become one `QuantRef` each; packed ones still have the padded shape of the file
    (`quant_formats.fitted`).

    Raises:
        OverlayError: weights in a quantised format that cannot be read.
    """
    tensors: Mapping[str, AnyRef] = header.tensors
    names = "\n".join(dict.fromkeys(_BLOCK.sub(r"\1.0.", "\n".join(tensors)).split("\n")))
    if any(re.search(have, names, re.M) and not (beside and re.search(beside, names, re.M))
           for have, beside in _OTHERS):
        return None
    layout = next((layout for layout in LAYOUTS if layout.fits(names)), None)
    if layout is None:
        return None
    tensors = gather(header)
    if layout is GEMMA:
        return _match_gemma(tensors)
    if layout is UPSCALER:
        return Match(layout.name, {upsampler_kind(tensors): tensors}, [])
    components, leftover = layout.split(tensors)
    name = SPLIT if layout is OFFICIAL and len(components) < len(OFFICIAL.components) else layout.name
    return Match(name, components, leftover)


def upsampler_kind(tensors: Mapping[str, AnyRef]) -> str:
    """Component of a latent upscaler (spec/06): rational (9 pixels to 4 is x1.5), over time, or else x2."""
    if "upsampler.conv.weight" in tensors and "initial_conv.weight" in tensors:
        ratio = tensors["upsampler.conv.weight"].shape[0] / tensors["initial_conv.weight"].shape[0]
        return "upsampler_x1.5" if ratio == 9 else "upsampler_x2"
    direct = tensors.get("upsampler.0.weight")
    return "upsampler_temporal_x2" if direct is not None and len(direct.shape) == 5 else "upsampler_x2"


def _match_gemma(tensors: Mapping[str, AnyRef]) -> Match:
    tokenizer = {TOKENIZER: tensors[TOKENIZER]} if TOKENIZER in tensors else {}
    text, vision = split_gemma((key, ref) for key, ref in tensors.items() if key != TOKENIZER)
    components = {"text_encoder": text, "text_encoder_vision": vision, "tokenizer": tokenizer}
    return Match("ComfyUI's Gemma 3 file" if tokenizer else "Gemma 3", {n: t for n, t in components.items() if t}, [])


# The prefixes of a Hugging Face Gemma before embed_tokens, layers and norm, longest first (spec/09 §4).
GEMMA_PREFIXES = ("model.language_model.model.", "model.language_model.", "language_model.model.", "language_model.",
                  "model.", "")
_GEMMA_TEXT = re.compile(r"(embed_tokens|norm)\.weight$|layers\.\d+\.")
_GEMMA_HEAD = re.compile(r"(^|\.)lm_head\.")  # tied to the embedding


def split_gemma(tensors: Iterable[tuple[str, AnyRef]]) -> tuple[dict[str, AnyRef], dict[str, AnyRef]]:
    """Sort Gemma's tensors into the text model (names of transformers' Gemma3TextModel) and all others (vision)."""
    text: dict[str, AnyRef] = {}
    others: dict[str, AnyRef] = {}
    for key, ref in tensors:
        bare = key.removeprefix("module.")
        name = next((bare[len(p):] for p in GEMMA_PREFIXES if bare.startswith(p) and _GEMMA_TEXT.match(bare[len(p):])),
                    None)
        if name is not None:
            text[name] = ref
        elif not _GEMMA_HEAD.search(bare):
            others[bare] = ref
    return text, others
