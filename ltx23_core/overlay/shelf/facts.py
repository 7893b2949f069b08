"""What the header of a weight file says, whatever the file is called: kind, components, number format, what fits."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from math import prod
from operator import attrgetter

from ...config import REFERENCE_SPATIAL, REFERENCE_TEMPORAL, reference_factor
from ...errors import OverlayError, word
from ...memory.pieces import together
from ..bytes.ggml import READABLE, is_quantised
from ..bytes.header import Header
from ..bytes.source import AnyRef, QuantRef, TensorRef
from ..names import kinds
from ..names.kinds import Kind
from ..names.layout import Tensors, match
from ..names.lines import Lines
from ..names.recognise import Names, recognise
from ..packed.rows import can_stay
from ..packed.sizes import NUMBER, bytes_on_device, stays_quantised
from ..weight_dtype import smaller

VARIANT = "{variant}"  # stands in `Facts.text` where "dev" or "distilled 1.1" goes, which only names tell
_WHOLE = ("connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder", "audio_decoder",
          "vocoder")
_PROOFS = frozenset(("transformer", "connectors", "text_projection"))  # that look otherwise in other generations
_UPSCALERS = {"upsampler_x2": "x2", "upsampler_x1.5": "x1.5", "upsampler_temporal_x2": "x2 in time"}
_ARTICLE = re.compile(r"^(an?|another) ")
_EXAMPLES = re.compile(r" \([^()]*\)")  # the names in brackets: too long for a sentence
# Components with blocks that can come and go one by one, and how a block's tensors are named.
# Names of what can be streamed of a component (`models.registry.STACKS`); what they match is one block.
_STACKS = {
    "transformer": re.compile(r"transformer_blocks\.\d+\."),
    "text_encoder": re.compile(r"layers\.\d+\."),
    "text_projection": re.compile(r"(video|audio)_aggregate_embed\.weight"),
    "connectors": re.compile(r"(video|audio)_embeddings_connector\.transformer_1d_blocks\.\d+\."),
}
_TABLE = "embed_tokens.weight"  # of the text encoder: only rows of it are used
_NUMBERS = re.compile(r"\d+")
SAMPLE, SAMPLES = 4096, 8  # bytes, and tensors, that are looked at to see whether a file is filled
_NUMBER = {"vocoder": 4}  # bytes of a number on the device, where it is not bfloat16
_LORA_BLOCK = re.compile(r"transformer_blocks[._](\d+)[._]")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.q_norm\.")
_RANK = re.compile(r"[._]lora([._]?A|_a|[._]?down|_linear_layer\.down)(\.\w+)?(\.weight)?$")
_USE_LORA = "Use a LoRA made for LTX-2.3."
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
        weights: component -> its bytes on a device: all of them, then those of each of its blocks; of a transformer
            that is not quantised also with each weight_dtype of `weight_dtype.ADVISED`, under `with_dtype`; and
            under `apart` what stays in its file when it is streamed.
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
    other = Facts("other", "", dtypes=dtypes, end=end)
    model = header.metadata.get("general.architecture")  # of a GGUF file
    if model is not None and model not in kinds.GGUF_MODELS:
        text = f"GGUF file with {_foreign_model(model)}, {dtypes}"
        return replace(other, text=text, fix=kinds.USE_OFFICIAL)
    if not kind.part:
        return replace(other, text=f"{_foreign_name(kind, names)}, {dtypes}", fix=kind.fix)
    if kind.part == "upsampler" and _is_of_20(names):
        text = f"LTX-2.0 latent upscaler x2, {dtypes}"
        return replace(other, text=text, fix=kinds.USE_UPSCALER, generation="2.0")
    components, note = _components(header)
    brings = tuple(name for name in components if name != "text_encoder_vision")
    if kind.part == "text_encoder":
        described = _gemma(names, brings, dtypes, note, end)
    else:
        text = _text(kind, brings, dtypes)
        base = Facts(kind.part, text, brings, dtypes, fits=_fits(kind, names), end=end)
        described = _judged(base, note, kind.fix)
    return _measured(described, components)


def _foreign_model(model: str) -> str:
    """What a GGUF file holds that is neither of LTX nor a text encoder."""
    if model == "clip":
        return "the vision part of a text encoder"
    return f"a model of type {word(model)}"


def _foreign_name(kind: Kind, names: Names) -> str:
    """A kind that LTX-2.3 cannot use, without its article."""
    name = _ARTICLE.sub("", kind.name)
    if name.startswith("LTX") and not names.has(r"^(vae|audio_vae|vocoder)\."):
        return name.replace(" checkpoint", " transformer")
    return name


def _judged(facts: Facts, note: str, fix: str) -> Facts:
    """The same as usable, or with what is wrong with it and what to do."""
    if note:
        return replace(facts, note=note, fix=fix)
    return replace(facts, usable=True)


def _measured(facts: Facts, components: Mapping[str, Tensors]) -> Facts:
    """The same with what each component takes, and the generation that only 2.3's own components prove."""
    weights, work, formats = {}, {}, {}
    for name in facts.brings:
        tensors = components[name]
        weights[name] = block_bytes(name, tensors)
        formats[name] = precision(tensors)
        if name == "text_encoder" and _TABLE in tensors and can_stay(tensors[_TABLE]):
            weights[apart(name)] = [bytes_on_device(_TABLE, tensors[_TABLE])]
        packed = work_bytes(name, tensors)
        if packed:
            work[name] = packed
    for form, tensors in smaller(components.get("transformer", {})).items():
        weights[with_dtype(form)] = block_bytes("transformer", tensors)
        work[with_dtype(form)] = work_bytes("transformer", tensors)
    measured = replace(facts, weights=weights, work=work, formats=formats)
    if _PROOFS.isdisjoint(components):
        return measured
    return replace(measured, generation="2.3")


def apart(component: str) -> str:
    """The key of `Facts.weights` for what stays in its file when a component is streamed."""
    return f"{component} apart"


def with_dtype(form: str) -> str:
    """The key of `Facts.weights` and `Facts.work` for a transformer that is quantised while it is read."""
    return f"transformer as {form}"


def _is_of_20(names: Names) -> bool:
    """LTX-2.0's x2 upscaler resamples from 4 times the channels (2.3's from 9 times for x1.5, or not at all)."""
    wide, narrow = names.size(r"^upsampler\.conv\.weight$", 0), names.size(r"^initial_conv\.weight$", 0)
    return bool(wide and narrow) and wide == 4 * narrow


def _fits(kind: Kind, names: Names) -> dict[str, int]:
    """The sizes that must agree with other files. Names of sound are like those of the video VAE: they have none."""
    if kind.part in ("audio_vae", "vocoder"):
        return {}
    found = {}
    for name, places in kinds.FITS.items():
        for place in places:
            size = names.size(*place)
            if size:
                found[name] = size
                break
    return found


def block_bytes(component: str, tensors: Mapping[str, AnyRef]) -> list[int]:
    """Bytes on a device: of all tensors, then of each block that could be streamed (`memory.room.Need`)."""
    blocks: dict[str, list[int]] = {}
    whole = 0
    for name, ref in tensors.items():
        size = bytes_on_device(name, ref, _NUMBER.get(component, NUMBER))
        whole += size
        found = component in _STACKS and _STACKS[component].match(name)
        if found:
            blocks.setdefault(found[0], []).append(size)
    taken = []
    for start in sorted(blocks, key=lambda start: list(map(int, _NUMBERS.findall(start)))):
        exact = sum(blocks[start])
        taken.append(together(exact, len(blocks[start])))
        whole += taken[-1] - exact
    return [whole, *taken]


def work_bytes(component: str, tensors: Mapping[str, AnyRef]) -> int:
    """Bytes of the largest block's packed weights as numbers, which several passes share; 0 where nothing is packed."""
    blocks = Counter[str]()
    if component == "transformer":
        for name, ref in tensors.items():
            found = _STACKS[component].match(name)
            if found and stays_quantised(name, ref):
                blocks[found[0]] += prod(ref.shape) * NUMBER
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
        how_much = _UPSCALERS.get("".join(brings[:1]), "")
        return f"LTX-2.3 {word} {how_much}, {dtypes}"
    if kind.part not in ("transformer", "checkpoint"):
        if brings and kind.part in ("audio_vae", "video_vae", "vocoder"):
            word = _sound_and_pictures(brings)
        if {"connectors", "text_projection"} <= set(brings):
            word += " and projection"
        return f"LTX-2.3 {word}, {dtypes}"
    text = f"LTX-2.3{VARIANT}, {word}, {dtypes}"
    missing = _lacking(kind, brings)
    if missing:
        text += f", without {', '.join(missing)}"
    return text


def _lacking(kind: Kind, brings: tuple[str, ...]) -> list[str]:
    """What a checkpoint, or the connectors that a transformer, should bring and does not, in words."""
    if not brings:
        return []
    whole = _WHOLE
    if kind.part == "transformer":
        whole = ("connectors",)
    return [name.replace("_", " ") for name in whole if name not in brings]


def _sound_and_pictures(brings: tuple[str, ...]) -> str:
    """What of the VAEs and the vocoder a file really brings, whatever its first names promised."""
    words = []
    for kind in ("video", "audio"):
        if f"{kind}_encoder" in brings or f"{kind}_decoder" in brings:
            words.append(f"{kind} VAE")
    if "vocoder" in brings:
        words.append("vocoder")
    return " with ".join(words)


def _gemma(names: Names, brings: tuple[str, ...], dtypes: str, note: str, end: int) -> Facts:
    """A Gemma 3 by layers and width; the tiny ones of tests count as text encoders too."""
    layers = len(_numbers(_LAYER, names.tensors))
    # The norms are never packed, as embeddings are.
    width = (names.size(r"layers\.\d+\.input_layernorm\.weight$", 0)
             or names.size(r"(^|\.)embed_tokens\.weight$", 1) or 0)
    name = gemma_name(layers, width)
    if name != kinds.GEMMA and (layers, width) in kinds.GEMMAS:
        note = f"LTX-2.3 needs {kinds.GEMMA}"
        other = Facts("other", f"{name}, {dtypes}", dtypes=dtypes, end=end)
        return _judged(other, note, kinds.USE_GEMMA)
    text = f"{name}, text encoder, {dtypes}"
    if "tokenizer" in brings:
        text += ", tokenizer inside"
    fits = {}
    if width:
        fits["text_features"] = width * (layers + 1)
    return _judged(Facts("text_encoder", text, brings, dtypes, fits=fits, end=end), note, kinds.USE_GEMMA)


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> set[str]:
    """The numbers, as a pattern's first group, that stand in names."""
    found = set()
    for name in names:
        number = pattern.search(name)
        if number:
            found.add(number[1])
    return found


def gemma_name(layers: int, width: int) -> str:
    """Which Gemma 3 has so many layers of this width."""
    return kinds.GEMMAS.get((layers, width), f"Gemma 3 of {layers} layers and width {width}")


def _lora(names: Names, header: Header, dtypes: str, end: int) -> Facts:
    """A LoRA: family by its modules, dialect by the form of its names, rank by the shapes."""
    family = _lora_family(names)
    width = names.size(r"transformer_blocks[._]\d+[._]attn1[._]to_q(\.weight)?\.lora_?(A|a|down)", 1)
    name, fits = family.name, family.fits
    if name == "a Stable Diffusion LoRA":
        name = _of_stable_diffusion(names, name)
    if "video modules" in name and width == 2048:
        name, fits = kinds.LTX_VIDEO_2B, False
    if reference_factor(header.metadata, REFERENCE_SPATIAL) or reference_factor(header.metadata, REFERENCE_TEMPORAL):
        name = name.replace(" LoRA", " IC-LoRA")
    dialect = _lora_dialect(names)
    pairs = _lora_pairs(header)
    called = f"{dialect} names"
    if dialect is None:
        called = "names of no known form"
    text = f"{called}{_ranks(pairs)}, {dtypes}"
    sizes = {}
    if fits:
        text = f"{VARIANT}, {text}"
        if width:
            sizes["width"] = width
    else:
        text = f", {text}"
    base = Facts("other", _ARTICLE.sub("", name) + text, dtypes=dtypes, fits=sizes, end=end,
                 generation=_LORA_GENERATION.get(family.name, ""))
    base = _lora_measured(base, pairs)
    if not fits:
        return _judged(base, "not for LTX-2.3", _USE_LORA)
    if dialect == "OFT":
        return _judged(base, "this dialect cannot be applied", _USE_LORA)
    return replace(base, kind="lora", brings=("lora",), usable=True)


def _lora_family(names: Names) -> kinds.LoraFamily:
    for family in kinds.LORA_FAMILIES:
        if names.lines.has(family.pattern):
            return family
    return kinds.LORA_UNKNOWN


def _lora_dialect(names: Names) -> str | None:
    for dialect, pattern in kinds.LORA_DIALECTS:
        if names.lines.has(pattern):
            return dialect
    return None


def _of_stable_diffusion(names: Names, name: str) -> str:
    """Which Stable Diffusion, by the width of its text."""
    width = names.size(r"attn2[._]to_k.*(lora_A|lora_?down)", 1)
    return kinds.SD_WIDTHS.get(width or 0, name)


def _lora_pairs(header: Header) -> dict[str, int]:
    """Name of each matrix that narrows -> its rank."""
    pairs = {}
    for name, ref in header.tensors.items():
        if ref.shape and _RANK.search(name):
            pairs[name] = ref.shape[0]
    return pairs


def _ranks(pairs: Mapping[str, int]) -> str:
    """", rank 16" or ", rank 4 to 16", for the sentence."""
    if not pairs:
        return ""
    least, most = min(pairs.values()), max(pairs.values())
    if least == most:
        return f", rank {least}"
    return f", rank {least} to {most}"


def _lora_measured(facts: Facts, pairs: Mapping[str, int]) -> Facts:
    """The same with how much of a model it changes."""
    count = len(pairs)
    outside = [name for name in pairs if not _LORA_BLOCK.search(name)]
    return replace(
        facts,
        modules=count,
        blocks=len(_numbers(_LORA_BLOCK, pairs)),
        outside=len(outside),
        rank=sum(pairs.values()) // max(count, 1),
        ranks=len(set(pairs.values())),
    )


def precision(tensors: Mapping[str, AnyRef]) -> str:
    """The number format of most bytes, in words; of a file's tensors, or of a component's as `match` makes them."""
    sizes = Counter[str]()
    for ref in tensors.values():
        sizes[ref.dtype] += ref.size_bytes or 1
    most = [name for name, _ in sizes.most_common()] or ["empty"]
    for name in most:
        if is_quantised(name):
            return f"GGUF {name}"
    for name in most:
        if name in kinds.PACKED:
            return kinds.PACKED[name]
    if kinds.PLAIN.keys() >= set(most):
        return kinds.PLAIN[most[0]]
    lines = Lines(re.sub(r"\d+\.", "0.", name) + f" {ref.dtype}" for name, ref in tensors.items())
    for label, patterns in kinds.PRECISIONS:
        if all(map(lines.has, patterns)):
            return label
    return kinds.PLAIN.get(most[0], most[0].lower())
