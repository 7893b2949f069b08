"""`identify` for folders: diffusers pipelines and their parts, Gemma folders, repositories of the hub's cache."""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import OverlayError, word
from ..bytes.endings import (
    INDEX,
    INDEX_OF,
    PICKLES,
    SAFETENSORS,
    SGLANG_MARKER,
    TOKENIZERS,
    Shard,
    is_gguf_name,
    is_weights,
    shard_of,
)
from ..bytes.header import Header, read_json
from ..bytes.source import gigabytes
from ..bytes.weights import read_weights
from ..names.kinds import DIFFUSERS_FOLDERS, GEMMA, USE_GEMMA, USE_OFFICIAL
from ..names.variant import SCHEDULER, variant_of
from .facts import VARIANT, Facts, facts_of, gemma_name, tail_of
from .identify_file import HOLLOW, alone, is_hollow
from .identity import Identity
from .remembered import Memory
from .tree import Entry, Listing, Opened, Tree, mark_of, marks_in

_GET_REST = "Download the missing files into this folder."
MAX_SHARDS = 200  # more is no model folder

Inside = Callable[[Path], Identity]


@dataclass
class _Weights:
    """The weight files of one folder, read as one."""

    size: int = 0
    problems: list[str] = field(default_factory=list)
    facts: Facts | None = None


def identify_folder(path: Path, memory: Memory | None, tree: Tree, inside: Inside) -> Identity:
    """Say what a folder is; see `identify`.

    Args:
        path: of the folder.
        memory: of earlier answers.
        tree: listings of folders.
        inside: `identify` for what lies in it.
    """
    listing = tree.listing(path)
    if listing is None:
        return Identity(path, "unreadable", "folder that cannot be read", fix="Check the permissions.")
    if is_repository(path.name, listing):
        snapshot = newest_snapshot(path, tree)
        if snapshot is None:
            sentence = "repository in the Hugging Face cache without any files"
            return Identity(path, "incomplete", sentence, fix="Repeat the download.")
        return inside(snapshot)
    try:
        key = fingerprint(path, tree)
        result = _describe(path, tree, inside)
        if memory:
            memory.keep(path, key, "", result)
        return result
    except OSError as error:
        sentence = f"folder that cannot be read ({error.strerror or error})"
        return Identity(path, "unreadable", sentence, fix="Check the permissions.")


def is_model_folder(listing: Listing) -> bool:
    """Whether a folder is to be taken as one model and not as a place for files."""
    return any(listing.has_file(name) for name in ("model_index.json", "config.json", SGLANG_MARKER))


def is_repository(name: str, listing: Listing) -> bool:
    """Whether a folder is a repository of the hub's cache."""
    snapshots = listing.entries.get("snapshots")
    return name.startswith("models--") and snapshots is not None and snapshots.is_folder


def snapshots_of(repository: Path, tree: Tree) -> list[Path]:
    """The snapshots of a repository of the hub's cache."""
    folder = repository / "snapshots"
    listing = tree.listing(folder)
    if listing is None:
        return []
    return [folder / entry.name for entry in listing.entries.values() if entry.is_folder]


def newest_snapshot(repository: Path, tree: Tree) -> Path | None:
    """The revision that refs/main names, else the newest one."""
    snapshots = snapshots_of(repository, tree)
    main = repository / "refs" / "main"
    if main.is_file():
        wanted = repository / "snapshots" / main.read_text(encoding="utf-8", errors="replace").strip()[:64]
        if wanted in snapshots:
            return wanted
    times = {}
    for each in snapshots:
        listing = tree.listing(each)
        if listing is not None:
            times[each] = listing.time
    return max(times, key=lambda each: times[each], default=None)


def _files(path: Path, tree: Tree) -> Iterator[tuple[str, Entry]]:
    """What the identity depends on: files of the folder and of the component folders in it."""
    for name in ("", *DIFFUSERS_FOLDERS, SCHEDULER[0]):
        own = tree.listing(path)
        if name and (own is None or name not in own.entries or not own.entries[name].is_folder):
            continue
        listing = tree.listing(path / name)
        if listing is None:
            continue
        for entry in listing.entries.values():
            if entry.info is not None:
                yield name, entry


def fingerprint(path: Path, tree: Tree | None = None) -> str:
    """Stands for names, sizes and times of everything in the folder that its identity depends on."""
    lines = []
    for folder, entry in _files(path, tree or Tree()):
        lines.append(f"{folder}/{entry.name}:{entry.info.key}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _describe(path: Path, tree: Tree, inside: Inside) -> Identity:
    if (path / "model_index.json").is_file() or (path / "transformer" / "config.json").is_file():
        return _pipeline(path)
    if not (path / "config.json").is_file() or _is_of_gguf(path):
        return _loose_files(path, tree, inside)
    config = _config(path / "config.json")
    model = config.get("_class_name") or config.get("model_type")
    weights = _read(path)
    if "gemma" in str(model).lower() or (weights.facts and weights.facts.kind == "text_encoder"):
        return _text_encoder(path, config, weights)
    if weights.facts is None:
        return Identity(path, "incomplete", f"folder of {model!r}: {'; '.join(weights.problems)}", fix=_GET_REST)
    form = "folder"
    if "_class_name" in config:
        form = "diffusers folder"
    return _finish(path, weights.facts, weights, form)


def _loose_files(path: Path, tree: Tree, inside: Inside) -> Identity:
    """A folder of files without any configuration: a set of split files, if each brings something else."""
    listing = tree.listing(path)
    found = [inside(path / name) for name in _one_each(listing)]
    if len(found) == 1:
        return replace(found[0], path=path)
    if not found:
        return Identity(path, "folder", "folder without weight files", fix="Give a weight file or a model folder.")
    parts = [each for each in found if each.usable]
    if len(parts) == 1 and parts[0].kind == "text_encoder":  # beside it lies its vision part, say
        return replace(parts[0], path=path)
    whole = _split_files(path, parts)
    if whole is not None:
        return whole
    sentence = f"folder with {len(found)} weight files, {len(parts)} of them of LTX-2.3, and no config.json"
    return Identity(path, "folder", sentence, fix="Give one of its files, or the folder that holds config.json.")


def _split_files(path: Path, parts: Sequence[Identity]) -> Identity | None:
    """Usable files of one folder as one model; None where they are none, or two bring the same."""
    main: Identity | None = None
    brings: list[str] = []
    size = 0
    fits, weights, work, formats = {}, {}, {}, {}
    for each in parts:
        if "transformer" in each.brings:
            main = each
        brings += each.brings
        size += each.size_bytes
        fits |= each.fits or {}
        weights |= each.weights
        work |= each.work
        formats |= each.formats
    if main is None or len(set(brings)) < len(brings):
        return None
    name = main.sentence.split(",")[0]
    sentence = f"{name}, folder of {len(parts)} files, {main.dtypes}, {gigabytes(size)}"
    return replace(main, path=path, kind="diffusers", brings=tuple(brings), size_bytes=size, sentence=sentence,
                   fits=fits, weights=weights, work=work, formats=formats)


def _is_of_gguf(folder: Path) -> bool:
    """Whether its weights are GGUF, which states its own configuration."""
    found = False
    for each in folder.iterdir():
        if is_weights(each.name):
            found = True
            if not is_gguf_name(each.name):
                return False
    return found


def _one_each(listing: Listing | None) -> list[str]:
    """The weight files of a folder; of several shards the first that is there stands for all."""
    if listing is None:
        return []
    names: dict[object, str] = {}
    for name in filter(is_weights, listing.entries):
        whole: object = name
        shard = shard_of(name)
        if shard is not None:
            whole = shard.stem, shard.count, shard.ending
        names.setdefault(whole, name)
    return list(names.values())


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except OverlayError:
        return {}


def identify_shard(path: Path, shard: Shard, memory: Memory | None, tree: Tree, inside: Inside) -> Identity:
    """One of several files that make one model: what they are together."""
    folder = path.parent
    if (folder / "config.json").is_file():
        whole = inside(folder)
        result = replace(whole, path=path, sentence=f"shard {shard.number} of {shard.count}: {whole.sentence}")
    else:
        names = shard.names()[:MAX_SHARDS]
        weights = _read(folder, names, _missing(folder, names))
        result = _finish(path, weights.facts or Facts("other", "shard"), weights, f"{shard.count} shards")
    if memory:
        memory.keep(path, fingerprint(folder, tree), "", result)
    return result


def _read(folder: Path, names: Sequence[str] | None = None, missing: Sequence[str] = ()) -> _Weights:
    """All weight files of a folder, or these, as one header; what is missing or broken is named."""
    result, headers = _Weights(), []
    if names is None:
        names, missing = _weight_files(folder)
    if missing:
        some = ", ".join(missing[:3])
        if len(missing) > 3:
            some += ", …"
        result.problems.append(f"{len(missing)} of {len(names)} weight files missing ({some})")
    marks = marks_in(each.name for each in folder.iterdir())
    architecture = ""  # only the first shard of a GGUF file says it
    for name in names[:MAX_SHARDS]:
        if name in missing:
            continue
        if mark := mark_of(name, marks):
            result.problems.append(f"{name}: unfinished download, {mark} is beside it")
            continue
        try:
            result.size += (folder / name).stat().st_size
            header = read_weights(folder / name, architecture)
            headers.append(header)
            architecture = headers[0].metadata.get("general.architecture", "")
            with Opened(folder / name) as file:
                if is_hollow(file, tail_of(header)):
                    result.problems.append(f"{name}: {HOLLOW}")
        except OverlayError:
            result.problems.append(f"{name}: {alone(folder / name).sentence}")
    if headers:
        result.facts = facts_of(_as_one(headers))
    elif not missing and not result.problems:
        result.problems.append(_no_weights(folder))
    return result


def _as_one(headers: Sequence[Header]) -> Header:
    """The header of several files of one model."""
    tensors = {}
    for header in headers:
        tensors |= header.tensors
    return Header(headers[0].source, tensors, headers[0].metadata)


def _no_weights(folder: Path) -> str:
    for each in folder.iterdir():
        if each.suffix in PICKLES:
            return "its weights are Python pickles (.bin)"
    return "no weights in it"


def _missing(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _weight_files(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the weight files by the index, else those that are there; and which of them are missing."""
    there = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in SAFETENSORS)
    for index in sorted(folder.glob(f"*{INDEX}")):
        names = _names_in(_config(index).get("weight_map"))
        missing = _missing(folder, names)
        single = index.name.removesuffix(INDEX_OF)
        if names and (not missing or single not in there):
            return names, missing
        if single in there:
            return [single], []
    main = [name for name in there if name.startswith(("model", "diffusion_pytorch_model"))]
    return main or there, []


def _names_in(table: object) -> list[str]:
    """The file names of an index, without those that lead out of its folder."""
    if not isinstance(table, dict):
        return []
    names = set()
    for name in table.values():
        if isinstance(name, str) and Path(name).name == name:
            names.add(name)
    return sorted(names)


def _text_encoder(path: Path, config: dict[str, Any], weights: _Weights) -> Identity:
    kind = str(config.get("model_type"))
    facts = weights.facts
    if facts and facts.kind == "other":
        return _other_encoder(path, facts.text, weights.size)
    if kind not in ("gemma3", "gemma3_text"):
        return _other_encoder(path, f"text encoder of type {kind!r}", weights.size)
    if facts is None or weights.problems:  # the shards that are there do not tell which Gemma it is
        facts = replace(facts or Facts("text_encoder", ""), text=f"{_gemma_of(config)}, text encoder")
    problems = [*weights.problems, *_encoder_problems(path, config)]
    return _finish(path, facts, replace(weights, problems=problems), "folder")


def _other_encoder(path: Path, name: str, size: int) -> Identity:
    """A text encoder that LTX-2.3 cannot use."""
    sentence = f"{name}, folder, {gigabytes(size)}: LTX-2.3 needs {GEMMA}"
    return Identity(path, "other", sentence, size_bytes=size, fix=USE_GEMMA)


def _encoder_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Why a folder with Gemma's weights cannot be used as it is."""
    problems = []
    if "quantization_config" in config:
        how, method = config["quantization_config"], "an unknown method"
        if isinstance(how, dict):
            method = how.get("quant_method", method)
        problems.append(f"quantised by {method}, which cannot be read")
    if not _has_tokenizer(path) and not _has_tokenizer(path.parent / "tokenizer"):
        problems.append("no tokenizer in it")
    return problems


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def _gemma_of(config: dict[str, Any]) -> str:
    """Which Gemma a configuration describes."""
    sizes = config.get("text_config", config)
    if not isinstance(sizes, dict):
        return str(config.get("model_type"))
    return gemma_name(sizes.get("num_hidden_layers"), sizes.get("hidden_size"))


def _finish(path: Path, facts: Facts, weights: _Weights, form: str) -> Identity:
    """One identity from what the header says, the name, and what is wrong."""
    variant = variant_of(path)
    text = f"{facts.text.replace(VARIANT, variant.words)}, {form}, {gigabytes(weights.size)}"
    if facts.note:
        text += f": {facts.note}"
    base = Identity(
        path,
        facts.kind,
        text,
        facts.brings,
        dtypes=facts.dtypes,
        size_bytes=weights.size,
        usable=facts.usable,
        fix=facts.fix,
        fits=facts.fits,
        weights=facts.weights,
        work=facts.work,
        formats=facts.formats,
        generation=facts.generation,
    )
    if VARIANT in facts.text:
        base = replace(base, variant=variant.name)
    if weights.problems:
        return base.refused("incomplete", f"{text}: {'; '.join(weights.problems)}", _GET_REST)
    return base


def _why_unusable(weights: _Weights) -> str:
    """What is wrong with a component's folder, "" where nothing is."""
    facts = weights.facts
    if weights.problems:
        return "; ".join(weights.problems)
    if facts is None:
        return "no weights"
    if facts.usable:
        return ""
    return facts.note or facts.text


@dataclass
class _Parts:
    """What the component folders of a pipeline bring together."""

    brings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    size: int = 0
    fits: dict[str, int] = field(default_factory=dict)
    weights: dict[str, list[int]] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    dtypes: str = ""
    generation: str = ""

    def add(self, folder: str, weights: _Weights) -> None:
        """What one of them holds."""
        found = weights.facts
        self.size += weights.size
        if found and folder == "transformer":
            self.dtypes = found.dtypes
            self.generation = found.text.split(",")[0]
            if found.usable:
                self.generation = "LTX-2.3"
        why = _why_unusable(weights)
        if why:
            self.problems.append(f"{folder}: {why}")
            return
        self.brings += DIFFUSERS_FOLDERS[folder] or found.brings
        self.fits |= found.fits
        self.weights |= found.weights
        self.work |= found.work
        self.formats |= found.formats


def _pipeline(path: Path) -> Identity:
    """A diffusers pipeline: each component folder by itself."""
    name = str(_config(path / "model_index.json").get("_class_name", "LTX2Pipeline"))
    if not name.startswith("LTX2"):
        return Identity(path, "other", f"diffusers folder of {word(name)}", fix=USE_OFFICIAL)
    found, missing = _Parts(), []
    for folder in DIFFUSERS_FOLDERS:
        if (path / folder).is_dir():
            found.add(folder, _read(path / folder))
        elif folder != "latent_upsampler":
            missing.append(folder)
    variant = variant_of(path)
    base = Identity(
        path,
        "incomplete",
        _pipeline_sentence(path, variant.words, found, missing),
        variant=variant.name,
        dtypes=found.dtypes,
        size_bytes=found.size,
        fix=_GET_REST,
        fits=found.fits,
        weights=found.weights,
        work=found.work,
        formats=found.formats,
    )
    if not found.brings:
        return base
    return replace(base, kind="diffusers", brings=tuple(found.brings), usable=True, fix="", generation="2.3")


def _pipeline_sentence(path: Path, variant: str, found: _Parts, missing: Sequence[str]) -> str:
    form = "diffusers folder"
    if (path / SGLANG_MARKER).is_file():
        form = "sglang folder"
    said = [f"{found.generation or 'LTX-2'}{variant}", form, found.dtypes, gigabytes(found.size)]
    text = ", ".join(filter(None, said))
    if missing:
        text += f", without {', '.join(missing)}"
    if found.problems:
        text += f"; not usable in it: {'; '.join(found.problems)}"
    return text
