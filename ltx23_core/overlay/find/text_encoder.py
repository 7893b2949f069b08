"""Gemma 3, a Hugging Face folder or one file, with its tokenizer; checked with the checkpoint (spec/01 §7, 09 §4)."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config import gemma_config
from ...errors import OverlayError, examples, word
from ..bytes.endings import TOKENIZER_FILES, TOKENIZERS
from ..bytes.header import read_json
from ..bytes.sets import Files, has_stem, read_files, read_stem, weight_sets
from ..bytes.source import SourceFile
from ..names.architecture import differences, expected_tensors
from ..names.builtin import builtin_gemma
from ..names.layout import Tensors, match
from ..packed.formats import fitted
from .found import CONFIG_FILE, Found, kind_of
from .gguf_gemma import gguf_gemma_config, is_gguf_gemma

GEMMA_12B = "Gemma 3 12B"
_GET_GEMMA = (f"Use {GEMMA_12B}: the folder of huggingface.co/google/gemma-3-12b-it-qat-q4_0-unquantized "
              "(24 GB; accept the licence there) or gemma_3_12B_it_fp8_scaled.safetensors of "
              "huggingface.co/Comfy-Org/ltx-2 (13 GB), in models/text_encoders.")
# (layers, width) -> name
_GEMMAS = {(18, 640): "Gemma 3 "
                      "270M", (26, 1152): "Gemma 3 1B", (34, 2560): "Gemma 3 4B", (48, 3840): GEMMA_12B,
           (62, 5376): "Gemma 3 27B"}
TEXT_PARTS = ("text_encoder", "text_encoder_vision", "tokenizer")  # what always comes from the same place


def find_text_encoder(path: Path, tokenizers: Sequence[Path] = ()) -> Found:
    """Read Gemma 3: a folder as Hugging Face writes it, one of its files, or a single file as ComfyUI's.

    Args:
        path: the folder or file.
        tokenizers: folders with tokenizer files, for weights that bring none.

    Raises:
        OverlayError: another model, shards or tensors missing, or no tokenizer.
    """
    files, config = _files(path)
    parts = _parts(files)
    tokenizer, text = parts.get("tokenizer"), parts["text_encoder"]
    sources = [header.source for header in files.headers]
    name = "Gemma 3 folder"
    if config is None:
        name, config = ("ComfyUI's Gemma 3 file" if tokenizer else "Gemma 3 file"), _config_of(files, text)
    else:
        sources.append(SourceFile.of(files.folder / CONFIG_FILE))
    shapes = expected_tensors("text_encoder", config, files.path)
    text = {name: fitted(ref, shapes.get(name, ())) for name, ref in text.items()}
    problems = differences("text_encoder", shapes, text)
    if problems:
        raise OverlayError(f"{files.path}: " + "; ".join(problems), f"the tensors of {_name(config)}",
                           "Download it again. " + _GET_GEMMA)
    folder = None if tokenizer else _tokenizer_folder(files, tokenizers)
    if folder is not None:
        sources += [SourceFile.of(file) for name in TOKENIZER_FILES if (file := folder / name).is_file()]
    return Found(files, name, parts | {"text_encoder": text}, {"text_encoder": config}, tuple(sources),
                 tokenizer=folder)


def _parts(files: Files) -> dict[str, Tensors]:
    """The components of a text encoder's files; the projection too where it was saved with it."""
    found = match(files)
    if found is None or "text_encoder" not in found.components:
        raise OverlayError(f"{files.path} is {kind_of(files)}", GEMMA_12B, _GET_GEMMA)
    return found.components


def _files(path: Path) -> tuple[Files, dict[str, Any] | None]:
    """The weights, and the config.json where there is a Hugging Face folder."""
    folder = path.parent if path.is_file() else path
    if path.is_file() and not (path.name.startswith("model") and (folder / CONFIG_FILE).is_file()):
        return _single(path), None
    if path.is_dir() and not has_stem(folder, "model") and (single := _only_gemma(folder)):
        return single, None  # with a config.json or without: GGUF states its own
    if not (folder / CONFIG_FILE).is_file():
        inner = folder / "text_encoder"  # of a diffusers pipeline
        if (inner / CONFIG_FILE).is_file():
            return _files(inner)
        raise OverlayError(f"{path} is not a text encoder folder: {folder / CONFIG_FILE} is missing",
                           "a Hugging Face folder with config.json, tokenizer and model*.safetensors, or one "
                           "file",
                           _GET_GEMMA)
    config = read_json(folder / CONFIG_FILE)
    kind = config.get("model_type")
    if kind not in ("gemma3", "gemma3_text") or not isinstance(config.get("text_config", {}), dict):
        raise OverlayError(f"{folder} holds a model of type {word(kind)}",
                           "'gemma3' in config.json", _GET_GEMMA)
    return _folder_files(folder), config


def _only_gemma(folder: Path) -> Files | None:
    """The one Gemma among the weight files of a folder; None if there is none."""
    found = [files for files in weight_sets(folder) if _is_gemma(files)]
    if len(found) > 1:
        names = sorted(header.path.name for files in found for header in files.headers)
        raise OverlayError(f"{folder} has {len(found)} text encoders: {examples(names)}", "one of them",
                           "Give the file that you want instead of the folder.")
    return found[0] if found else None


def _is_gemma(files: Files) -> bool:
    found = match(files)
    return found is not None and "text_encoder" in found.components


def _single(path: Path) -> Files:
    files = read_files(path)
    if not _is_gemma(files):
        raise OverlayError(f"{path} is {kind_of(files)}", "Gemma 3 12B", _GET_GEMMA)
    return files


def _folder_files(folder: Path) -> Files:
    """The folder's weight files: all shards that the index (or the shards' own names) tells of, or the single file."""
    if not has_stem(folder, "model"):
        raise OverlayError(f"{folder} has no model*.safetensors", "the text encoder's weights",
                           "Download the weight files into this folder. " + _GET_GEMMA)
    return Files(folder, read_stem(folder, "model").headers)


def _config_of(files: Files, text: Tensors) -> dict[str, Any]:
    """Configuration of a single file: a Gemma's config.json beside it, or that of 12B with the file's vocabulary."""
    beside = files.folder / CONFIG_FILE
    embedding = text.get("embed_tokens.weight")
    if is_gguf_gemma(files.metadata):
        return gguf_gemma_config(files.path, files.metadata, embedding.shape[0] if embedding else 0)
    if beside.is_file():
        config = read_json(beside)
        if config.get("model_type") in ("gemma3", "gemma3_text") and isinstance(config.get("text_config", {}), dict):
            return config
    config = builtin_gemma()
    if embedding is not None and len(embedding.shape) == 2:
        layers = 1 + max((int(name.split(".")[1]) for name in text if name.startswith("layers.")), default=-1)
        width = embedding.shape[1]
        name = _GEMMAS.get((layers, width))
        if name is None:
            raise OverlayError(f"{files.path} has {layers} layers of width {width} and {beside} is missing",
                               f"{GEMMA_12B} (48 layers of width 3840), or a config.json that describes the model",
                               _GET_GEMMA)
        if name != GEMMA_12B:
            raise OverlayError(f"{files.path} is {name} ({layers} layers of width {width})",
                               f"{GEMMA_12B} (48 layers of width 3840)", _GET_GEMMA)
        config["text_config"]["vocab_size"] = embedding.shape[0]
    return config


def _name(config: dict[str, Any]) -> str:
    values = gemma_config(config)
    return _GEMMAS.get((values["num_hidden_layers"], values["hidden_size"]),
                       "the model that config.json describes")


def _tokenizer_folder(files: Files, tokenizers: Sequence[Path]) -> Path:
    """Where the tokenizer is: beside the weights, in a neighbour ``tokenizer`` as diffusers has it, or elsewhere."""
    for folder in (files.folder, files.folder.parent / "tokenizer", *tokenizers):
        if any((folder / name).is_file() for name in TOKENIZERS):
            return folder
    raise OverlayError(f"{files.path} has no tokenizer",
                       " or ".join(TOKENIZERS) + " beside the weights, or a "
                       "text encoder file that has it inside",
                       "Download the tokenizer files of the same model into this folder, or give their "
                       "folder too.")


def check_matches(encoder: Found, caption_channels: int, in_features: int) -> None:
    """Refuse a Gemma of another size than the checkpoint was trained with.

    Args:
        encoder: of `find_text_encoder`.
        caption_channels: Gemma's width, from the checkpoint's config.
        in_features: columns of the checkpoint's text projection: width * (layers + 1).
    """
    config = gemma_config(encoder.config["text_encoder"])
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    if width != caption_channels or width * (layers + 1) != in_features:
        name = _GEMMAS.get((layers, width), "a Gemma 3")
        want = (in_features // caption_channels - 1, caption_channels)
        raise OverlayError(f"{encoder.path} is {name} ({layers} layers of width {width})",
                           f"{_GEMMAS.get(want, 'a Gemma 3')} ({want[0]} layers of width {want[1]})", _GET_GEMMA)
