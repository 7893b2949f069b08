"""The Gemma 3 folder: configuration, shards and tokenizer, checked against the checkpoint (spec/01 §7, 09 §4)."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OverlayError
from .architecture import differences, examples, expected_tensors, gemma_config
from .header import Header, read_header, read_json
from .layout import split_gemma
from .source import TensorRef

GEMMA = "Gemma 3 12B"
_GET_GEMMA = (f"Use {GEMMA}: the folder of huggingface.co/google/gemma-3-12b-it-qat-q4_0-unquantized "
              "(24 GB; accept the licence there) in models/text_encoders.")
# (layers, width) -> name
_GEMMAS = {(18, 640): "Gemma 3 270M", (26, 1152): "Gemma 3 1B", (34, 2560): "Gemma 3 4B", (48, 3840): GEMMA,
           (62, 5376): "Gemma 3 27B"}
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
SIDE_FILES = (*_TOKENIZERS, "tokenizer_config.json", "config.json")  # what else of the folder an overlay relies on


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder folder.

    Args:
        folder: absolute path.
        config: its config.json.
        headers: of the weight files.
        tensors: the language model, by parameter name.
        vision: everything else, by the file's names.
    """

    folder: Path
    config: dict[str, Any]
    headers: list[Header]
    tensors: dict[str, TensorRef]
    vision: dict[str, TensorRef]

    @property
    def side_files(self) -> list[Path]:
        """Tokenizer and configuration files that exist."""
        return [path for name in SIDE_FILES if (path := self.folder / name).is_file()]


def read_text_encoder(path: Path) -> TextEncoder:
    """Read a Hugging Face folder of Gemma 3; one of its files may be named instead of the folder.

    Raises:
        OverlayError: not such a folder, another model, shards or tensors missing, no tokenizer.
    """
    folder = path.parent if path.is_file() else path
    if not (folder / "config.json").is_file():
        raise OverlayError(f"{path} is not a text encoder folder: {folder / 'config.json'} is missing",
                           "a Hugging Face folder with config.json, tokenizer and model*.safetensors", _GET_GEMMA)
    config = read_json(folder / "config.json")
    _check_kind(folder, config)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise OverlayError(f"{folder} has no tokenizer", " or ".join(_TOKENIZERS) + " beside config.json",
                           "Download the tokenizer files of the same model into this folder.")
    headers = [read_header(file) for file in _weight_files(folder)]
    text, vision = split_gemma((key, ref) for header in headers for key, ref in header.tensors.items())
    problems = differences("text_encoder", expected_tensors("text_encoder", config, folder), text)
    if problems:
        raise OverlayError(f"{folder}: " + "; ".join(problems), "the tensors that its config.json describes",
                           "Download the folder again. " + _GET_GEMMA)
    return TextEncoder(folder, config, headers, text, vision)


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in ("gemma3", "gemma3_text") or not isinstance(config.get("text_config", {}), dict):
        raise OverlayError(f"{folder} holds a model of type {kind!r}", "'gemma3' in config.json", _GET_GEMMA)


def _weight_files(folder: Path) -> list[Path]:
    """The folder's weight files: all shards that the index (or the shards' own names) tells of, or the single file."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    names = set(shards)
    if index.is_file():
        table = read_json(index).get("weight_map")
        names = set(table.values()) if isinstance(table, dict) and all(
            isinstance(name, str) and Path(name).name == name for name in table.values()) else set()
        if not names:
            raise OverlayError(f"{index} has no usable weight_map", "tensor names -> file names in the same folder",
                               "Download model.safetensors.index.json again.")
    elif shards and (match := _SHARD.fullmatch(shards[0])):
        names |= {f"model-{i + 1:05}-of-{match[2]}.safetensors" for i in range(int(match[2]))}
    missing = sorted(name for name in names if not (folder / name).is_file())
    if names and not missing:
        return [folder / name for name in sorted(names)]
    if single.is_file():
        return [single]
    if names:
        raise OverlayError(f"{folder} lacks {len(missing)} of {len(names)} shards: {examples(missing)}",
                           "every shard of the text encoder", "Download the missing files into this folder.")
    raise OverlayError(f"{folder} has no model*.safetensors", "the text encoder's weights",
                       "Download the weight files into this folder. " + _GET_GEMMA)


def check_matches(encoder: TextEncoder, caption_channels: int, in_features: int) -> None:
    """Refuse a Gemma of another size than the checkpoint was trained with.

    Args:
        encoder: the folder.
        caption_channels: Gemma's width, from the checkpoint's config.
        in_features: columns of the checkpoint's text projection: width * (layers + 1).
    """
    config = gemma_config(encoder.config)
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    if width != caption_channels or width * (layers + 1) != in_features:
        name = _GEMMAS.get((layers, width), "a Gemma 3")
        want = (in_features // caption_channels - 1, caption_channels)
        raise OverlayError(f"{encoder.folder} is {name} ({layers} layers of width {width})",
                           f"{_GEMMAS.get(want, 'a Gemma 3')} ({want[0]} layers of width {want[1]})", _GET_GEMMA)
