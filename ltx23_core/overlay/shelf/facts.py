"""What the header of a weight file says, whatever the file is called: kind, components, number format, what fits."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...config import REFERENCE_SPATIAL, REFERENCE_TEMPORAL, reference_factor
from ...errors import OverlayError
from ..bytes.ggml import READABLE, is_quantised
from ..bytes.header import Header
from ..bytes.source import AnyRef, QuantRef
from ..names import kinds
from ..names.kinds import Kind
from ..names.layout import match
from ..names.lines import Lines
from ..names.recognise import Names, recognise

VARIANT = "{variant}"  # stands in `Facts.text` where "dev" or "distilled 1.1" goes, which only names tell
_WHOLE = ("connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder",
          "vocoder")
_UPSCALERS = {"upsampler_x2": "x2", "upsampler_x1.5": "x1.5", "upsampler_temporal_x2": "x2 in time"}
_ARTICLE = re.compile(r"^(an?|another) ")
_EXAMPLES = re.compile(r" \([^()]*\)")  # the names in brackets: too long for a sentence
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.q_norm\.")
_RANK = re.compile(r"[._]lora_?(A|down)(\.default)?(\.weight)?$")


@dataclass(frozen=True)
class Facts:
    """What a header says.

    Args:
        kind: "checkpoint", "transformer", "lora", ... (`kinds.WORDS`); "other" for what LTX-2.3 cannot use.
        text: the beginning of the sentence: what it is and its number format.
        brings: components that it has.
        dtypes: number format of its weights.
        note: the end of the sentence: what is wrong with it.
        usable: whether LTX-2.3 can use it.
        fix: what to do if not.
        fits: sizes that must agree between files used together (`kinds.FITS`).
        end: bytes that the whole file must have.
    """

    kind: str
    text: str
    brings: tuple[str, ...] = ()
    dtypes: str = ""
    note: str = ""
    usable: bool = False
    fix: str = ""
    fits: dict[str, int] = field(default_factory=dict)
    end: int = 0


def facts_of(header: Header) -> Facts:
    """Describe a file by its tensors and metadata."""
    names = Names(header.tensors)
    kind = recognise(names)
    end = max((part.end for ref in header.tensors.values()
               for part in (ref.parts.values() if isinstance(ref, QuantRef) else (ref,))), default=0)
    dtypes = precision(header.tensors)
    if kind.part == "lora":
        return _lora(names, header, dtypes, end)
    model = header.metadata.get("general.architecture")  # of a GGUF file
    if model is not None and model not in kinds.GGUF_MODELS:
        what = "the vision part of a text encoder" if model == "clip" else f"a model of type {_plain(model)!r}"
        return Facts("other", f"GGUF file with {what}, {dtypes}", (), dtypes, fix=kinds.USE_OFFICIAL, end=end)
    if not kind.part:
        name = _ARTICLE.sub("", kind.name)
        if name.startswith("LTX") and not names.has(r"^(vae|audio_vae|vocoder)\."):
            name = name.replace(" checkpoint", " transformer")
        return Facts("other", f"{name}, {dtypes}", (), dtypes, fix=kind.fix, end=end)
    brings, note = _components(header)
    if kind.part == "text_encoder":
        return _gemma(names, brings, dtypes, note, end)
    sound = kind.part in ("audio_vae", "vocoder")  # whose names are like those of the video VAE
    fits = {name: size for name, places in kinds.FITS.items()
            if not sound and (size := next((s for p in places if (s := names.size(*p)) is not None), None)) is not None}
    return Facts(kind.part, _text(kind, brings, dtypes), brings, dtypes, note, not note, kind.fix if note else "", fits,
                 end)


def _components(header: Header) -> tuple[tuple[str, ...], str]:
    """What an overlay can take from a file, and why nothing."""
    try:
        types = {ref.dtype for ref in header.tensors.values() if is_quantised(ref.dtype)} - set(READABLE)
        if types:
            return (), f"GGUF types that cannot be read: {', '.join(sorted(types))}"
        found = match(header)
    except OverlayError as error:
        return (), _EXAMPLES.sub("", error.found.removeprefix(str(header.path)).strip())
    if found is None or not found.components:
        return (), "not laid out as any known file of LTX-2.3"
    return tuple(name for name in found.components if name != "text_encoder_vision"), ""


def _plain(text: str) -> str:
    """Text of a file, made short and harmless."""
    return "".join(c for c in text[:40] if c.isprintable())


def _text(kind: Kind, brings: tuple[str, ...], dtypes: str) -> str:
    """The beginning of the sentence for a file with components of LTX-2.3."""
    word = kinds.WORDS[kind.part]
    if kind.part == "upsampler":
        return f"LTX-2.3 {word} {_UPSCALERS.get(brings[0], '') if brings else ''}, {dtypes}"
    if kind.part not in ("transformer", "checkpoint"):
        if brings and kind.part in ("audio_vae", "video_vae", "vocoder"):
            word = _sound_and_pictures(brings)
        both = "connectors" in brings and "text_projection" in brings
        return f"LTX-2.3 {word}{' and projection' if both else ''}, {dtypes}"
    whole = _WHOLE if kind.part == "checkpoint" else _WHOLE[:1]
    missing = [name.replace("_", " ") for name in whole if brings and name not in brings]
    return f"LTX-2.3{VARIANT}, {word}, {dtypes}" + (f", without {', '.join(missing)}" if missing else "")


def _sound_and_pictures(brings: tuple[str, ...]) -> str:
    """What of the VAEs and the vocoder a file really brings, whatever its first names promised."""
    words = [f"{kind} VAE" for kind in ("video", "audio") if {f"{kind}_encoder", f"{kind}_decoder"} & set(brings)]
    words += ["vocoder"] if "vocoder" in brings else []
    return " with ".join(words)


def _gemma(names: Names, brings: tuple[str, ...], dtypes: str, note: str, end: int) -> Facts:
    """A Gemma 3 by layers and width; the tiny ones of tests count as text encoders too."""
    found = {match[1] for name in names.tensors if (match := _LAYER.search(name))}
    # The norms are never packed, as embeddings are.
    width = names.size(r"layers\.\d+\.input_layernorm\.weight$", 0) or 0
    width, layers = width or names.size(r"(^|\.)embed_tokens\.weight$", 1) or 0, len(found)
    name = gemma_name(layers, width)
    if name != kinds.GEMMA and (layers, width) in kinds.GEMMAS:
        return Facts("other", f"{name}, {dtypes}", (), dtypes, f"LTX-2.3 needs {kinds.GEMMA}", fix=kinds.USE_GEMMA,
                     end=end)
    inside = ", tokenizer inside" if "tokenizer" in brings else ""
    return Facts("text_encoder", f"{name}, text encoder, {dtypes}{inside}", brings, dtypes, note, not note,
                 kinds.USE_GEMMA if note else "", {"text_features": width * (layers + 1)} if width else {}, end)


def gemma_name(layers: int, width: int) -> str:
    """Which Gemma 3 has so many layers of this width."""
    return kinds.GEMMAS.get((layers, width), f"Gemma 3 of {layers} layers and width {width}")


def _lora(names: Names, header: Header, dtypes: str, end: int) -> Facts:
    """A LoRA: family by its modules, dialect by the form of its names, rank by the shapes."""
    family = next((each for each in kinds.LORA_FAMILIES if names.lines.has(each.pattern)),
                  kinds.LORA_UNKNOWN)
    name, fits = family.name, family.fits
    if name == "a Stable Diffusion LoRA":
        width = names.size(r"attn2[._]to_k.*(lora_A|lora_?down)", 1)
        name = kinds.SD_WIDTHS.get(width or 0, name)
    width = names.size(r"(?<!audio_)(?<!_)attn1[._]to_q\.lora_?(A|down)", 1)
    if "video modules" in name and width == 2048:
        name, fits = kinds.LTX_VIDEO_2B, False
    dialect = next((each for each, pattern in kinds.LORA_DIALECTS if names.lines.has(pattern)), None)
    ranks = sorted({ref.shape[0] for key, ref in header.tensors.items() if _RANK.search(key) and ref.shape})
    rank = f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "") if ranks else ""
    if any(reference_factor(header.metadata, keys) for keys in (REFERENCE_SPATIAL, REFERENCE_TEMPORAL)):
        name = name.replace(" LoRA", " IC-LoRA")
    usable = fits and dialect != "OFT"
    note = "" if usable else "this dialect cannot be applied" if fits else "not for LTX-2.3"
    called = "names of no known form" if dialect is None else f"{dialect} names"
    text = f"{_ARTICLE.sub('', name)}{VARIANT if fits else ''}, {called}{rank}, {dtypes}"
    return Facts("lora" if usable else "other", text, ("lora",) if usable else (), dtypes, note, usable,
                 "" if usable else "Use a LoRA made for LTX-2.3.", {"width": width} if width and fits else {}, end)


def precision(tensors: Mapping[str, AnyRef]) -> str:
    """The number format of most of a file's bytes, in words."""
    sizes = Counter[str]()
    for ref in tensors.values():
        sizes[ref.dtype] += ref.size_bytes or 1
    most = [name for name, _ in sizes.most_common()] or ["empty"]
    if blocks := next(filter(is_quantised, most), None):
        return f"GGUF {blocks}"
    if all(name in kinds.PLAIN for name in most):
        return kinds.PLAIN[most[0]]
    lines = Lines(re.sub(r"\d+\.", "0.", name) + f" {ref.dtype}" for name, ref in tensors.items())
    labels = (label for label, patterns in kinds.PRECISIONS if all(map(lines.has, patterns)))
    return next(labels, kinds.PLAIN.get(most[0], most[0].lower()))
