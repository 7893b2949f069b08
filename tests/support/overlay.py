"""Files for the tests of overlay and weights: sparse ones of the true sizes, changed copies of the tiny checkpoint."""
from __future__ import annotations

import gzip
import json
import os
from functools import cache
from math import prod
from pathlib import Path

import pytest

from ltx23_core.errors import LTX23Error
from ltx23_core.overlay.bytes.source import DTYPE_BITS, TensorRef
from tests.goldens.harness import CHECKPOINT, ROOT

Layout = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape

GEMMA_12B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 48,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
}
GEMMA_4B = {**GEMMA_12B, "text_config": {**GEMMA_12B["text_config"], "hidden_size": 2560, "intermediate_size": 10240,
                                         "num_attention_heads": 8, "num_key_value_heads": 4,
                                         "num_hidden_layers": 34}}


@cache
def manifest_22b() -> dict:
    """Everything that is known of the official 22B files."""
    return json.loads(gzip.decompress((ROOT / "manifest-22b-dev.json.gz").read_bytes()))


def as_layout(tensors: dict[str, list]) -> Layout:
    """``name -> [dtype, *shape]`` of the manifest as a layout."""
    return {name: (entry[0], tuple(entry[1:])) for name, entry in tensors.items()}


def write_sparse(path: Path, tensors: Layout, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file with a true header, in the order of the official writer, and a hole instead of data.

    Only the last byte is there: a file that ends with zeros is an unfinished download.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[item[1][0]], item[0])):
        start, end = end, end + prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if end:
            file.seek(end - 1, os.SEEK_CUR)
            file.write(b"\x3f")
    return path


def checkpoint_22b(path: Path) -> Path:
    """The official dev checkpoint, 46 GB long, of which only the header is on the disk."""
    known = manifest_22b()
    metadata = {"config": json.dumps(known["metadata"]["config"]),
                "model_version": known["metadata"]["model_version"]}
    return write_sparse(path, as_layout(known["tensors"]), metadata)


def upscalers_22b(folder: Path) -> list[Path]:
    """The three official upscaler files, sparse."""
    return [write_sparse(folder / name, as_layout(entry["tensors"]), {"config": json.dumps(entry["metadata_config"])})
            for name, entry in manifest_22b()["upscalers"].items()]


def lora_22b(path: Path) -> Path:
    """The official distilled LoRA, sparse."""
    layout: Layout = {}
    prefix, rank = "model.diffusion_model.", manifest_22b()["distilled_lora_384"]["max_rank"]
    for name, (_, *shape) in manifest_22b()["tensors"].items():
        if name.startswith(prefix) and "_connector." not in name and name.endswith(".weight") and len(shape) == 2:
            module, r = name.removeprefix("model.").removesuffix(".weight"), min(rank, *shape)
            layout[module + ".lora_A.weight"] = ("BF16", (r, shape[1]))
            layout[module + ".lora_B.weight"] = ("BF16", (shape[0], r))
    return write_sparse(path, layout)


def gemma_folder(folder: Path, config: dict = GEMMA_12B, prefix: str = "language_model.model.",
                 shards: int = 5) -> Path:
    """A Gemma folder of the true layout in sparse shards, with index, tokenizer files and a vision tensor."""
    from ltx23_core.overlay.names.architecture import expected_tensors

    names = {prefix + name: ("BF16", shape) for name, shape in expected_tensors("text_encoder", config).items()}
    names["vision_tower.vision_model.post_layernorm.weight"] = ("BF16", (1152,))
    index = {}
    for i in range(shards):
        part = {name: names[name] for name in sorted(names)[i::shards]}
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        write_sparse(folder / file, part)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(b"spiece")
    return folder


def tiny_parts() -> tuple[Layout, dict[str, str]]:
    """Layout and metadata of the tiny checkpoint, to be changed and written again."""
    from ltx23_core.overlay.bytes.header import read_header

    header = read_header(CHECKPOINT)
    return {name: (ref.dtype, ref.shape) for name, ref in header.tensors.items()}, dict(header.metadata)


def refuses(error: type[LTX23Error], *texts: str) -> pytest.RaisesExc:
    """A context that expects an error with found, expected and fix, and these texts in one line."""
    def complete(raised: LTX23Error) -> bool:
        message = str(raised)
        print(message)
        assert raised.found and raised.expected and raised.fix.endswith("."), message
        assert "\n" not in message and all(part in message for part in (raised.found, raised.expected, raised.fix))
        missing = [text for text in texts if text not in message]
        assert not missing, f"{missing} not in: {message}"
        return True

    return pytest.raises(error, check=complete)


def data(ref: TensorRef) -> bytes:
    """The bytes of a tensor."""
    with open(ref.path, "rb") as file:
        file.seek(ref.start)
        return file.read(ref.size_bytes)
