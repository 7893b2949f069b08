"""`identify` for folders: diffusers pipelines and their parts, Gemma folders, repositories of the hub's cache."""
from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import OverlayError, word
from ..bytes.header import Header, read_header, read_json
from ..names.kinds import DIFFUSERS_FOLDERS, GEMMA, USE_GEMMA, USE_OFFICIAL
from .facts import VARIANT, Facts, facts_of, gemma_name
from .identify import TOKENIZERS, Identity, gigabytes, identify, variant_of

if TYPE_CHECKING:
    from .remembered import Memory

SGLANG_MARKER = ".sglang_overlay_materialized.json"
WEIGHTS = (".safetensors", ".sft")
_GET_REST = "Download the missing files into this folder."
MAX_SHARDS = 200  # more is no model folder


@dataclass
class _Weights:
    """The weight files of one folder, read as one."""

    size: int = 0
    problems: list[str] = field(default_factory=list)
    facts: Facts | None = None


def identify_folder(path: Path, memory: Memory | None = None) -> Identity:
    """Say what a folder is; see `identify`."""
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        snapshot = _snapshot(path)
        if snapshot is None:
            return Identity(path, "incomplete", "repository in the Hugging Face cache without any files",
                            fix="Repeat the download.")
        return identify(snapshot, memory)
    try:
        key = fingerprint(path)
        result = _describe(path, memory)
        if memory:
            memory.keep(path, key, "", result)
        return result
    except OSError as error:
        return Identity(path, "unreadable", f"folder that cannot be read ({error.strerror or error})",
                        fix="Check the permissions.")


def is_model_folder(path: Path) -> bool:
    """Whether a folder is to be taken as one model and not as a place for files."""
    return any(os.path.isfile(path / name) for name in ("model_index.json", "config.json", SGLANG_MARKER))


def _snapshot(repo: Path) -> Path | None:
    """The revision that refs/main names, else the newest one."""
    snapshots = [each for each in (repo / "snapshots").iterdir() if each.is_dir()]
    main = repo / "refs" / "main"
    if main.is_file():
        wanted = repo / "snapshots" / main.read_text(encoding="utf-8", errors="replace").strip()[:64]
        if wanted in snapshots:
            return wanted
    return max(snapshots, key=lambda each: each.stat().st_mtime_ns, default=None)


def _files(path: Path) -> Iterator[Path]:
    """What the identity depends on: files of the folder and of the component folders in it."""
    yield from (each for each in sorted(path.iterdir()) if each.is_file())
    for name in DIFFUSERS_FOLDERS:
        if (path / name).is_dir():
            yield from (each for each in sorted((path / name).iterdir()) if each.is_file())


def fingerprint(path: Path) -> str:
    """Stands for names, sizes and times of everything in the folder that its identity depends on."""
    lines = [f"{each}:{info.st_size}:{info.st_mtime_ns}:{info.st_ino}" for each in _files(path)
             for info in (each.stat(),)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _describe(path: Path, memory: Memory | None) -> Identity:
    parts = {name: path / name for name in DIFFUSERS_FOLDERS if (path / name).is_dir()}
    if (path / "model_index.json").is_file() or (path / "transformer" / "config.json").is_file():
        return _pipeline(path, parts)
    if not (path / "config.json").is_file():
        return _loose_files(path, memory)
    config = _config(path / "config.json")
    model = config.get("_class_name") or config.get("model_type")
    weights = _read(path)
    if "gemma" in str(model).lower() or (weights.facts and weights.facts.kind == "text_encoder"):
        return _text_encoder(path, config, weights)
    if weights.facts is None:
        return Identity(path, "incomplete", f"folder of {model!r}: {'; '.join(weights.problems)}", fix=_GET_REST)
    return _finish(path, weights.facts, weights, "diffusers folder" if "_class_name" in config else "folder")


def _loose_files(path: Path, memory: Memory | None) -> Identity:
    """A folder of files without any configuration: a set of split files, if each brings something else."""
    found = [identify(each, memory) for each in sorted(path.iterdir()) if each.suffix.lower() in (*WEIGHTS, ".gguf")]
    if len(found) == 1:
        return replace(found[0], path=path)
    if not found:
        return Identity(path, "folder", "folder without weight files", fix="Give a weight file or a model folder.")
    parts = [each for each in found if each.usable]
    brings = [name for each in parts for name in each.brings]
    if "transformer" not in brings or len(set(brings)) < len(brings):
        return Identity(path, "folder", f"folder with {len(found)} weight files, {len(parts)} of them of LTX-2.3, and "
                        "no config.json", fix="Give one of its files, or the folder that holds config.json.")
    main = next(each for each in parts if "transformer" in each.brings)
    size = sum(each.size_bytes for each in parts)
    fits = {key: value for each in parts for key, value in (each.fits or {}).items()}
    return Identity(path, "diffusers", f"{main.sentence.split(',')[0]}, folder of {len(parts)} files, {main.dtypes}, "
                    f"{gigabytes(size)}", tuple(brings), main.variant, main.dtypes, size, True, "", fits)


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except OverlayError:
        return {}


def identify_shard(path: Path, shard: re.Match[str], memory: Memory | None = None) -> Identity:
    """One of several files that make one model: what they are together."""
    folder, count = path.parent, int(shard["count"])
    if (folder / "config.json").is_file():
        whole = identify(folder, memory)
        result = replace(whole, path=path, sentence=f"shard {int(shard['number'])} of {count}: {whole.sentence}")
    else:
        names = [f"{shard['stem']}-{i + 1:05}-of-{count:05}.safetensors" for i in range(min(count, MAX_SHARDS))]
        weights = _read(folder, names, [name for name in names if not (folder / name).is_file()])
        result = _finish(path, weights.facts or Facts("other", "shard"), weights, f"{count} shards")
    if memory:
        memory.keep(path, fingerprint(folder), "", result)
    return result


def _read(folder: Path, names: Sequence[str] | None = None, missing: Sequence[str] = ()) -> _Weights:
    """All weight files of a folder, or these, as one header; what is missing or broken is named."""
    result, headers = _Weights(), []
    if names is None:
        names, missing = _weight_files(folder)
    if missing:
        result.problems.append(f"{len(missing)} of {len(names)} weight files missing ({', '.join(missing[:3])}"
                               f"{', …' if len(missing) > 3 else ''})")
    for name in names[:MAX_SHARDS]:
        if name in missing:
            continue
        try:
            result.size += (folder / name).stat().st_size
            headers.append(read_header(folder / name))
        except OverlayError:
            result.problems.append(f"{name}: {identify(folder / name).sentence}")
    if headers:
        tensors = {key: ref for header in headers for key, ref in header.tensors.items()}
        result.facts = facts_of(Header(headers[0].source, tensors, headers[0].metadata))
    elif not missing and not result.problems:
        pickles = any(each.suffix in (".bin", ".pt", ".pth") for each in folder.iterdir())
        result.problems.append("its weights are Python pickles (.bin)" if pickles else "no weights in it")
    return result


def _weight_files(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the weight files by the index, else those that are there; and which of them are missing."""
    there = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in WEIGHTS)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        table = _config(index).get("weight_map")
        names = sorted({name for name in table.values() if isinstance(name, str) and Path(name).name == name}) \
            if isinstance(table, dict) else []
        missing = [name for name in names if not (folder / name).is_file()]
        single = index.name.removesuffix(".index.json")
        if names and (not missing or single not in there):
            return names, missing
        if single in there:
            return [single], []
    main = [name for name in there if name.startswith(("model", "diffusion_pytorch_model"))]
    return main or there, []


def _text_encoder(path: Path, config: dict[str, Any], weights: _Weights) -> Identity:
    kind = str(config.get("model_type"))
    problems = list(weights.problems)
    if "quantization_config" in config:
        how = config["quantization_config"]
        method = how.get("quant_method", "an unknown method") if isinstance(how, dict) else "an unknown method"
        problems.append(f"quantised by {method}, which cannot be read")
    if not any((place / name).is_file() for place in (path, path.parent / "tokenizer") for name in TOKENIZERS):
        problems.append("no tokenizer in it")
    facts = weights.facts
    if kind not in ("gemma3", "gemma3_text") or (facts and facts.kind == "other"):
        name = facts.text if facts and facts.kind == "other" else f"text encoder of type {kind!r}"
        return Identity(path, "other", f"{name}, folder, {gigabytes(weights.size)}: LTX-2.3 needs {GEMMA}",
                        size_bytes=weights.size, fix=USE_GEMMA)
    if facts is None or weights.problems:  # the shards that are there do not tell which Gemma it is
        sizes = config.get("text_config", config)
        name = gemma_name(sizes.get("num_hidden_layers"), sizes.get("hidden_size")) if isinstance(sizes, dict) else kind
        facts = replace(facts or Facts("text_encoder", ""), text=f"{name}, text encoder")
    return _finish(path, facts, replace(weights, problems=problems), "folder")


def _finish(path: Path, facts: Facts, weights: _Weights, form: str) -> Identity:
    """One identity from what the header says, the name, and what is wrong."""
    variant, words = variant_of(path)
    text = f"{facts.text.replace(VARIANT, words)}, {form}, {gigabytes(weights.size)}"
    text += f": {facts.note}" if facts.note else ""
    if weights.problems:
        return Identity(path, "incomplete", f"{text}: {'; '.join(weights.problems)}", (), variant, facts.dtypes,
                        weights.size, False, _GET_REST, facts.fits)
    return Identity(path, facts.kind, text, facts.brings, variant if VARIANT in facts.text else None, facts.dtypes,
                    weights.size, facts.usable, facts.fix, facts.fits)


def _pipeline(path: Path, parts: dict[str, Path]) -> Identity:
    """A diffusers pipeline: each component folder by itself."""
    name = str(_config(path / "model_index.json").get("_class_name", "LTX2Pipeline"))
    if not name.startswith("LTX2"):
        return Identity(path, "other", f"diffusers folder of {word(name)}", fix=USE_OFFICIAL)
    brings, problems, size = [], [], 0
    fits: dict[str, int] = {}
    dtypes = generation = ""
    for folder, components in DIFFUSERS_FOLDERS.items():
        if folder not in parts:
            continue
        weights = _read(parts[folder])
        size += weights.size
        found = weights.facts
        if found and folder == "transformer":
            dtypes, generation = found.dtypes, "LTX-2.3" if found.usable else found.text.split(",")[0]
        if weights.problems or found is None or not found.usable:
            why = "; ".join(weights.problems) or (found.note or found.text if found else "no weights")
            problems.append(f"{folder}: {why}")
            continue
        brings += components or found.brings
        fits |= found.fits
    form = "sglang folder" if (path / SGLANG_MARKER).is_file() else "diffusers folder"
    variant, words = variant_of(path)
    missing = [each for each in DIFFUSERS_FOLDERS if each not in parts and each != "latent_upsampler"]
    text = f"{generation or 'LTX-2'}{words}, {form}, {dtypes + ', ' if dtypes else ''}{gigabytes(size)}"
    text += f", without {', '.join(missing)}" if missing else ""
    text += f"; not usable in it: {'; '.join(problems)}" if problems else ""
    usable = bool(brings)
    return Identity(path, "diffusers" if usable else "incomplete", text, tuple(brings), variant, dtypes, size, usable,
                    "" if usable else _GET_REST, fits)

