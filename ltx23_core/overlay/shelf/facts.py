"""What the header of a weight file says, whatever the file is called: kind, components, number format, what fits."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from math import prod
from operator import attrgetter

from ...config import REFERENCE_SPATIAL, REFERENCE_TEMPORAL, reference_factor
from ...errors import OverlayError, word
from ..bytes.ggml import READABLE, is_quantised
from ..bytes.header import Header
from ..bytes.source import AnyRef, QuantRef, TensorRef
from ..names import kinds
from ..names.kinds import Kind
from ..names.layout import Tensors, match
from ..names.lines import Lines
from ..names.recognise import Names, recognise
from ..packed.sizes import NUMBER, bytes_on_device, stays_quantised

VARIANT = "{variant}"  # stands in `Facts.text` where "dev" or "distilled 1.1" goes, which only names tell
_WHOLE = ("connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder",
          "vocoder")
_UPSCALERS = {"upsampler_x2": "x2", "upsampler_x1.5": "x1.5", "upsampler_temporal_x2": "x2 in time"}
_ARTICLE = re.compile(r"^(an?|another) ")
_EXAMPLES = re.compile(r" \([^()]*\)")  # the names in brackets: too long for a sentence
# Components with blocks that can come and go one by one, and how a block's tensors are named.
_STACKS = {"transformer": re.compile(r"transformer_blocks\.(\d+)\."), "text_encoder": re.compile(r"layers\.(\d+)\.")}
SAMPLE, SAMPLES = 4096, 8  # bytes, and tensors, that are looked at to see whether a file is filled
_NUMBER = {"vocoder": 4}  # bytes of a number on the device, where it is not bfloat16
_LORA_BLOCK = re.compile(r"transformer_blocks[._](\d+)[._]")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.q_norm\.")
_RANK = re.compile(r"[._]lora([._]?A|_a|[._]?down|_linear_layer\.down)(\.\w+)?(\.weight)?$")
_LORA_GENERATION = {"an LTX-2.3 LoRA": "2.3", "an LTX-2.0 LoRA": "2.0"}


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
        weights: component -> its bytes on a device: all of them, then those of each of its blocks.
        work: component -> bytes that a block of packed weights takes as numbers while it runs.
        formats: component -> number format of most of its bytes.
        generation: that the header proves, "2.3", "2.0", or "" where it does not tell.
        modules, blocks, outside: of a LoRA, how many modules and blocks it changes, and modules that are in no block.
        rank, ranks: its mean rank, and how many different ones it has.
        tail: bytes of the last tensors, as (start, end), where numbers must be.
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
    weights: dict[str, list[int]] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    generation: str = ""
    modules: int = 0
    blocks: int = 0
    outside: int = 0
    rank: int = 0
    ranks: int = 0
    tail: list[list[int]] = field(default_factory=list)


def facts_of(header: Header) -> Facts:
    """Describe a file by its tensors and metadata."""
    end = 0
    for part in _parts(header):
        end = max(end, part.end)
    return replace(_described(header, end), tail=tail_of(header))


def tail_of(header: Header) -> list[list[int]]:
    """The last bytes of the last tensors, as [start, end): a file that is complete has numbers there."""
    last = nlargest(SAMPLES, _parts(header), key=attrgetter("end"))
    samples = []
    for part in last:
        if part.end > part.start:
            samples.append([max(part.start, part.end - SAMPLE), part.end])
    return samples


def _parts(header: Header) -> Iterator[TensorRef]:
    """Everything in a file that has bytes of its own."""
    for ref in header.tensors.values():
        if isinstance(ref, QuantRef):
            yield from ref.parts.values()
        else:
            yield ref


def _described(header: Header, end: int) -> Facts:
    """All but where numbers must be."""
    names = Names(header.tensors)
    kind = recognise(names)
    dtypes = precision(header.tensors)
    if kind.part == "lora":
        return _lora(names, header, dtypes, end)
    model = header.metadata.get("general.architecture")  # of a GGUF file
    if model is not None and model not in kinds.GGUF_MODELS:
        what = "the vision part of a text encoder" if model == "clip" else f"a model of type {word(model)}"
        return Facts("other", f"GGUF file with {what}, {dtypes}", (), dtypes, fix=kinds.USE_OFFICIAL, end=end)
    if not kind.part:
        name = _ARTICLE.sub("", kind.name)
        if name.startswith("LTX") and not names.has(r"^(vae|audio_vae|vocoder)\."):
            name = name.replace(" checkpoint", " transformer")
        return Facts("other", f"{name}, {dtypes}", (), dtypes, fix=kind.fix, end=end)
    if kind.part == "upsampler" and _is_of_20(names):
        return Facts("other", f"LTX-2.0 latent upscaler x2, {dtypes}", (), dtypes, fix=kinds.USE_UPSCALER, end=end,
                     generation="2.0")
    components, note = _components(header)
    brings = tuple(name for name in components if name != "text_encoder_vision")
    if kind.part == "text_encoder":
        described = _gemma(names, brings, dtypes, note, end)
    else:
        described = Facts(kind.part, _text(kind, brings, dtypes), brings, dtypes, note, usable=not note,
                          fix=kind.fix if note else "", fits=_fits(kind, names), end=end)
    return replace(described, weights={name: block_bytes(name, components[name]) for name in brings},
                   work={name: work for name in brings if (work := work_bytes(name, components[name]))},
                   formats={name: precision(components[name]) for name in brings},
                   generation="2.3" if {"transformer", "connectors", "text_projection"} & set(brings) else "")


def _is_of_20(names: Names) -> bool:
    """LTX-2.0's x2 upscaler resamples from 4 times the channels (2.3's from 9 times for x1.5, or not at all)."""
    wide, narrow = names.size(r"^upsampler\.conv\.weight$", 0), names.size(r"^initial_conv\.weight$", 0)
    return bool(wide and narrow) and wide == 4 * narrow


def _fits(kind: Kind, names: Names) -> dict[str, int]:
    """The sizes that must agree with other files. Names of sound are like those of the video VAE: they have none."""
    if kind.part in ("audio_vae", "vocoder"):
        return {}
    found = {name: next(filter(None, (names.size(*place) for place in places)), None)
             for name, places in kinds.FITS.items()}
    return {name: size for name, size in found.items() if size is not None}


def block_bytes(component: str, tensors: Mapping[str, AnyRef]) -> list[int]:
    """Bytes on a device: of all tensors, then of each block that could be streamed (`memory.room.Need`)."""
    blocks = Counter[int]()
    whole = 0
    for name, ref in tensors.items():
        size = bytes_on_device(name, ref, _NUMBER.get(component, NUMBER))
        whole += size
        if component in _STACKS and (found := _STACKS[component].match(name)):
            blocks[int(found[1])] += size
    return [whole, *(blocks[number] for number in sorted(blocks))]


def work_bytes(component: str, tensors: Mapping[str, AnyRef]) -> int:
    """Bytes of the largest block's packed weights as numbers, which several passes share; 0 where nothing is packed."""
    blocks = Counter[str]()
    if component == "transformer":
        for name, ref in tensors.items():
            found = _STACKS[component].match(name)
            if found and stays_quantised(name, ref):
                blocks[found[1]] += prod(ref.shape) * NUMBER
    return max(blocks.values(), default=0)


def _components(header: Header) -> tuple[dict[str, Tensors], str]:
    """What an overlay can take from a file, and why nothing."""
    try:
        types = {ref.dtype for ref in header.tensors.values() if is_quantised(ref.dtype)} - set(READABLE)
        if types:
            return {}, f"GGUF types that cannot be read: {', '.join(sorted(types))}"
        found = match(header)
    except OverlayError as error:
        return {}, _EXAMPLES.sub("", error.found.removeprefix(str(header.path)).strip())
    if found is None or not found.components:
        return {}, "not laid out as any known file of LTX-2.3"
    return found.components, ""


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
    width = names.size(r"transformer_blocks[._]\d+[._]attn1[._]to_q(\.weight)?\.lora_?(A|a|down)", 1)
    if "video modules" in name and width == 2048:
        name, fits = kinds.LTX_VIDEO_2B, False
    dialect = next((each for each, pattern in kinds.LORA_DIALECTS if names.lines.has(pattern)), None)
    pairs = {key: ref.shape[0] for key, ref in header.tensors.items() if _RANK.search(key) and ref.shape}
    ranks = sorted(set(pairs.values()))
    blocks = {found[1] for key in pairs if (found := _LORA_BLOCK.search(key))}
    rank = f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "") if ranks else ""
    if any(reference_factor(header.metadata, keys) for keys in (REFERENCE_SPATIAL, REFERENCE_TEMPORAL)):
        name = name.replace(" LoRA", " IC-LoRA")
    usable = fits and dialect != "OFT"
    note = "" if usable else "this dialect cannot be applied" if fits else "not for LTX-2.3"
    called = "names of no known form" if dialect is None else f"{dialect} names"
    text = f"{_ARTICLE.sub('', name)}{VARIANT if fits else ''}, {called}{rank}, {dtypes}"
    return Facts("lora" if usable else "other", text, ("lora",) if usable else (), dtypes, note, usable,
                 fix="" if usable else "Use a LoRA made for LTX-2.3.", fits={"width": width} if width and fits else {},
                 end=end, generation=_LORA_GENERATION.get(family.name, ""), modules=len(pairs),
                 blocks=len(blocks), outside=sum(not _LORA_BLOCK.search(key) for key in pairs),
                 rank=sum(pairs.values()) // max(len(pairs), 1), ranks=len(ranks))


def precision(tensors: Mapping[str, AnyRef]) -> str:
    """The number format of most bytes, in words; of a file's tensors, or of a component's as `match` makes them."""
    sizes = Counter[str]()
    for ref in tensors.values():
        sizes[ref.dtype] += ref.size_bytes or 1
    most = [name for name, _ in sizes.most_common()] or ["empty"]
    if blocks := next(filter(is_quantised, most), None):
        return f"GGUF {blocks}"
    if packed := next((kinds.PACKED[name] for name in most if name in kinds.PACKED), None):
        return packed
    if all(name in kinds.PLAIN for name in most):
        return kinds.PLAIN[most[0]]
    lines = Lines(re.sub(r"\d+\.", "0.", name) + f" {ref.dtype}" for name, ref in tensors.items())
    labels = (label for label, patterns in kinds.PRECISIONS if all(map(lines.has, patterns)))
    return next(labels, kinds.PLAIN.get(most[0], most[0].lower()))
