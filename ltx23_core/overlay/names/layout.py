"""Where the tensors of each component stand in a file, as data (spec/01 §2, §3.1, 09 §3). A new layout is a new table.

A `Layout` turns a key of the user's file into places: (component, name of the parameter). `match` asks every layout in
turn, each for the keys that those before it left, so one file may mix the habits of several tools. Everything behind it
(checks, manifest, reading) works with component names alone and never sees a key of a file.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import OverlayError
from ..bytes.source import AnyRef
from ..packed.layers import HeaderLike, gather
from .gemma import TOKENIZER, is_gemma, take_gemma
from .lines import Lines
from .renames import FOLDERS, to_official

__all__ = ["CONFIG", "LAYOUTS", "OFFICIAL", "TOKENIZER", "Layout", "Match", "Tensors", "match", "upsampler_kind"]

Place = tuple[str, str]  # component, prefix of the parameter name
Places = dict[str, tuple[Place, ...]]
Tensors = dict[str, AnyRef]

_STATISTICS = re.compile(r"per_channel_statistics\.(?!(mean-of-means|std-of-means)$)")  # old files carry more; unused
_BLOCK = re.compile(r"\b(transformer_blocks|transformer_1d_blocks|layers)\.\d+\.")
# What tools put before the transformer's names, longest first; the names themselves may stand bare ("").
WRAPPERS = ("model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model.", "")
# And before the text parts, where they were saved together with a text encoder.
_TEXT_WRAPPERS = (*WRAPPERS, "text_encoders.", "text_encoder.")


@dataclass(frozen=True)
class Match:
    """What a file is.

    Args:
        layout: names of the tables that fit, joined by " + ".
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
        prefixes: prefix of the file's key -> where it goes; the longest prefix that fits counts.
        diffusers: folder of a diffusers pipeline whose renames apply first (`renames.FOLDERS`).
        also: further prefixes that count when a file is read; what is written has those of `prefixes`.
        only: keys that do not match this belong to other layouts, whatever the prefixes say.
    """

    name: str
    has: tuple[str, ...]
    prefixes: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    diffusers: str | None = None
    also: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    only: re.Pattern[str] = re.compile("")

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that a complete file of this layout brings."""
        folder = FOLDERS[self.diffusers] if self.diffusers else ()
        named = [component for places in self.prefixes.values() for component, _ in places]
        return tuple(dict.fromkeys((*folder, *named)))

    @property
    def config(self) -> dict[str, str]:
        """Component -> part of the metadata ``config`` that describes it."""
        return {name: CONFIG[name] for name in self.components}

    def fits(self, names: Lines) -> bool:
        """Whether a file with these names is of this layout."""
        return all(map(names.has, self.has))

    def places(self, key: str) -> list[Place]:
        """Where one key goes, as (component, parameter name); empty if the layout has no such key."""
        if not self.only.match(key):
            return []
        if self.diffusers:
            renamed = ((name, to_official(name, key)) for name in FOLDERS[self.diffusers])
            if places := [(component, name) for component, name in renamed if name is not None]:
                return places
        found = self._longest_prefix.match(key)
        if found is None:
            return []
        prefix = found[0]
        return [(component, keep + key[len(prefix):]) for component, keep in self._known[prefix]]

    @cached_property
    def _known(self) -> Mapping[str, tuple[Place, ...]]:
        return {**self.also, **self.prefixes}

    @cached_property
    def _longest_prefix(self) -> re.Pattern[str]:
        """Of all prefixes that a key could begin with; thousands of keys are asked for."""
        longest_first = sorted(self._known, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) if longest_first else "(?!)")


def _transformer(prefix: str) -> Places:
    """Transformer and connectors behind one prefix."""
    return {prefix: (("transformer", ""),), **_connectors(prefix)}


def _connectors(prefix: str) -> Places:
    return {f"{prefix}{kind}_embeddings_connector.": (("connectors", f"{kind}_embeddings_connector."),)
            for kind in ("video", "audio")}


def _projection(prefix: str) -> Places:
    """The text projection behind a prefix, with its official parent or without."""
    bare: Places = {f"{prefix}{kind}_aggregate_embed.": (("text_projection", f"{kind}_aggregate_embed."),)
                    for kind in ("video", "audio")}
    return {f"{prefix}text_embedding_projection.": (("text_projection", ""),), **bare}


def _vae(prefix: str, kind: str) -> Places:
    """Encoder, decoder, and the statistics that both need."""
    encoder, decoder = f"{kind}_encoder", f"{kind}_decoder"
    return {f"{prefix}encoder.": ((encoder, ""),),
            f"{prefix}decoder.": ((decoder, ""),),
            f"{prefix}per_channel_statistics.": ((encoder, "per_channel_statistics."),
                                                 (decoder, "per_channel_statistics."))}


# The text parts under any prefix: tools cut them out of the official file with or without what stood before them.
_TEXT: Places = {}
for _wrapper in _TEXT_WRAPPERS:
    _TEXT |= _connectors(_wrapper) | _projection(_wrapper)

OFFICIAL = Layout(
    name="official single file",
    has=(r"^(model\.diffusion_model|text_embedding_projection|vae\.(en|de)coder|audio_vae\.(en|de)coder"
         r"|vocoder\.(vocoder|bwe_generator))\.",),
    prefixes=_transformer("model.diffusion_model.") | {"text_embedding_projection.": (("text_projection", ""),)}
    | _vae("vae.", "video") | _vae("audio_vae.", "audio") | {"vocoder.": (("vocoder", ""),)},
    also=_TEXT,
)
SPLIT = "split file"  # the official names, but only some of the components
UPSCALER = Layout("latent upscaler", (r"^post_upsample_res_blocks\.", r"^initial_conv\.weight$"))


def _wrapped(prefix: str) -> Layout:
    name = f"transformer under {prefix}" if prefix else "transformer without prefix"
    return Layout(name, (rf"^{re.escape(prefix)}audio_adaln_single\.",), _TEXT | _transformer(prefix))


_ANY_TEXT = "^(" + "|".join(re.escape(wrapper) for wrapper in _TEXT_WRAPPERS) + ")"
# diffusers' names have no prefix: all but those that say themselves whose they are.
_BARE = re.compile(r"(?!(vae|audio_vae|vocoder|text_embedding_projection|text_encoders?|(model\.)?diffusion_model)\.)")
_VOCODER = re.compile(r"(vocoder|bwe_generator|mel_stft)\.")

# Asked in this order. The bare transformer comes after all that it could be taken for: it takes every name left.
LAYOUTS: tuple[Layout, ...] = (
    UPSCALER,
    Layout("diffusers "
           "transformer", (r"^audio_time_embed\.", r"^proj_in\."), diffusers="transformer", only=_BARE),
    Layout("diffusers "
           "connectors", (r"^(video|audio)_(connector|text_proj_in)\.",), _TEXT, diffusers="connectors"),
    Layout("diffusers video "
           "VAE", (r"^(encoder|decoder)\.mid_block\.resnets\.",), diffusers="vae", only=_BARE),
    Layout("diffusers audio VAE", (r"^latents_mean$", r"^(encoder\.down|decoder\.up)\.0\.block\."),
           diffusers="audio_vae", only=_BARE),
    Layout("diffusers "
           "vocoder", (r"^(vocoder|bwe_generator)\.upsamplers\.",), diffusers="vocoder", only=_VOCODER),
    Layout("vocoder without prefix", (r"^bwe_generator\.",), {"": (("vocoder", ""),)}, only=_VOCODER),
    OFFICIAL,
    *(_wrapped(prefix) for prefix in WRAPPERS[1:-1]),
    Layout("video VAE without prefix", (r"^(decoder\.up_blocks|encoder\.down_blocks)\.0\.res_blocks\.",),
           _vae("", "video")),
    Layout("audio VAE without prefix", (r"^(encoder\.down|decoder\.up)\.0\.block\.",), _vae("", "audio")),
    _wrapped(""),
    Layout("connectors without prefix", (_ANY_TEXT + r"(video|audio)_embeddings_connector\.",), _TEXT),
    Layout("text projection without prefix",
           (_ANY_TEXT + r"(text_embedding_projection\.)?(video|audio)_aggregate_embed\.",), _TEXT),
)

# Kind of a VAE -> its official prefix, and names that only it has; they end what other tools put before them.
_VAES = {"video": ("vae.", r"(decoder\.up_blocks|encoder\.down_blocks)\.0\.res_blocks\."),
         "audio": ("audio_vae.", r"(decoder\.up|encoder\.down)\.0\.block\.")}


def renamed_vaes(names: Lines) -> list[Layout]:
    """Layouts of VAEs under prefixes of other tools (``first_stage_model.``), found by what stands behind these."""
    layouts = []
    for kind, (usual, sign) in _VAES.items():
        found = names.search(rf"^(.+?\.){sign}")
        if found and found[1] != usual:
            start = re.escape(found[1])
            has = (rf"^{start}{sign}", rf"^{start}per_channel_statistics\.mean-of-means$")
            layouts.append(Layout(f"{kind} VAE under {found[1]}", has, _vae(found[1], kind)))
    return layouts


# Component -> part of the metadata ``config`` that describes it.
CONFIG = {"transformer": "transformer", "connectors": "transformer", "text_projection": "transformer",
          "video_encoder": "vae", "video_decoder": "vae", "audio_encoder": "audio_vae", "audio_decoder": "audio_vae",
          "vocoder": "vocoder"}

_ORDER = {name: place for place, name in enumerate(CONFIG)}

# Names (and what must stand beside them) of LoRAs and of models that are not LTX-2.3: these have no layout here.
_OTHERS = ((r"(\.|_)(lora_[ABab]|lora_up|lora_down|lokr_w[12]|hada_w[12]_a|oft_R|diff)(\.|_|$)", None),
           (r"caption_projection\.", None), (r"keyframes_abs_pos_embedding", None), (r"^duration_head\.", None),
           (r"text_embedding_projection\.(aggregate_embed\.|weight$)", None),
           (r"audio_(adaln_single|time_embed)\.", r"(^|\.)prompt_adaln(_single)?\."),
           (r"(^|\.)prompt_adaln(_single)?\.", r"audio_(adaln_single|time_embed)\."),
           (r"\btransformer_blocks\.0\.ff\.net\.2\.weight", r"\btransformer_blocks\.0\.ff\.net\.2\.bias"))


def match(header: HeaderLike) -> Match | None:
    """What a file is, by its tensor names alone; None if it is no part of LTX-2.3.

    Every part is found whatever the prefixes of the others are. Quantised weights become one `QuantRef` each; packed
    ones still have the padded shape of the file (`packed.formats.fitted`).

    Raises:
        OverlayError: weights in a quantised format that cannot be read, or two tensors for one parameter.
    """
    names = _short(header.tensors)
    if any(names.has(have) and not (beside and names.has(beside)) for have, beside in _OTHERS):
        return None
    gemma = is_gemma(names)
    if not gemma and not any(layout.fits(names) for layout in (*renamed_vaes(names), *LAYOUTS)):
        return None
    gathered = gather(header)
    same = gathered.keys() == header.tensors.keys()  # nothing packed was put together
    sorting = _Sorting(gathered, names if same else _short(gathered))
    if gemma:
        sorting.take_gemma(names)
    for layout in (*renamed_vaes(sorting.names), *LAYOUTS):
        if layout.fits(sorting.names):
            sorting.take(layout, header)
    if not sorting.components:
        return None
    ordered = sorted(sorting.components.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER)))
    return Match(" + ".join(sorting.layouts), dict(ordered), list(sorting.rest))


def _short(names: Iterable[str]) -> Lines:
    """Names, each once where every block is block 0: thousands become hundreds."""
    return Lines(_BLOCK.sub(r"\1.0.", name) for name in names)


class _Sorting:
    """A file's tensors while the layouts take theirs, one after the other."""

    def __init__(self, tensors: Mapping[str, AnyRef], names: Lines) -> None:
        self.rest: Tensors = dict(tensors)
        self.names = names
        self.components: dict[str, Tensors] = {}
        self.layouts: list[str] = []
        self._keys: dict[tuple[str, str], str] = {}  # of the file, by component and parameter

    def _leave(self, rest: Tensors) -> None:
        self.rest, self.names = rest, _short(rest)

    def take_gemma(self, names: Lines) -> None:
        """The text encoder, its vision part and its tokenizer."""
        taken = take_gemma(self.rest, names)
        self.components |= taken.components
        self._leave(taken.rest)
        self.layouts.append(taken.layout)

    def take(self, layout: Layout, header: HeaderLike) -> None:
        """What one layout knows of what is left. The statistics of a VAE alone make no encoder.

        Raises:
            OverlayError: a parameter that another key of the file has already brought.
        """
        if layout is UPSCALER:
            self.components[upsampler_kind(self.rest)] = self.rest
            self._leave({})
            self.layouts.append(layout.name)
            return
        places = {key: layout.places(key) for key in self.rest if not _STATISTICS.search(key)}
        own = {each[0][0] for each in places.values() if len(each) == 1}
        for key, each in places.items():
            for component, name in each:
                if component in own:
                    self._place(component, name, key, header)
        self._leave({key: ref for key, ref in self.rest.items() if not places.get(key, True)})
        if own:
            complete = own >= set(layout.components)
            self.layouts.append(layout.name if layout is not OFFICIAL or complete else SPLIT)

    def _place(self, component: str, name: str, key: str, header: HeaderLike) -> None:
        other = self._keys.setdefault((component, name), key)
        if other != key:
            raise OverlayError(f"{header.path} has {name} of {component} twice, as {other} and as {key}",
                               "one tensor for each parameter", "Merge the parts of one model only.")
        self.components.setdefault(component, {})[name] = self.rest[key]


def upsampler_kind(tensors: Mapping[str, AnyRef]) -> str:
    """Component of a latent upscaler (spec/06): rational (9 pixels to 4 is x1.5), over time, or else x2."""
    if "upsampler.conv.weight" in tensors and "initial_conv.weight" in tensors:
        ratio = tensors["upsampler.conv.weight"].shape[0] / tensors["initial_conv.weight"].shape[0]
        return "upsampler_x1.5" if ratio == 9 else "upsampler_x2"
    direct = tensors.get("upsampler.0.weight")
    return "upsampler_temporal_x2" if direct is not None and len(direct.shape) == 5 else "upsampler_x2"
