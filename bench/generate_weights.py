"""Write files with the true 22B layout and random, non-degenerate bf16 weights: monolith, Gemma 3 12B folder, LoRA.

    python -m bench.generate_weights --monolith /tmp/w/ltx-2.3-22b-dev.safetensors --gemma /dev/shm/gemma \\
        --lora /dev/shm/lora.safetensors
"""
from __future__ import annotations

import argparse
import gzip
import json
import math
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

REPO = Path(__file__).resolve().parents[1]
MANIFEST = REPO / "tests" / "goldens" / "manifest-22b-dev.json.gz"
TOKENIZER = REPO / "tests" / "goldens" / "tiny" / "gemma"
LORA_RANK = 384
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
GEMMA_12B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360,
                    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
                    "query_pre_attn_scalar": 256, "sliding_window": 1024, "vocab_size": 262208,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
}

Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def manifest_22b() -> tuple[Layout, dict[str, str]]:
    """Name -> (dtype, shape) of every tensor of the dev monolith, and its metadata as the file has it."""
    content = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    tensors = {name: (spec[0], tuple(spec[1:])) for name, spec in content["tensors"].items()}
    metadata = {key: value if isinstance(value, str) else json.dumps(value)
                for key, value in content["metadata"].items()}
    return tensors, metadata


def lora_layout() -> Layout:
    """The official distilled LoRA: every Linear of the transformer, rank 384 or what its size allows."""
    prefix, layout = "model.diffusion_model.", {}
    for name, (dtype, shape) in manifest_22b()[0].items():
        if name.startswith(prefix) and "_connector." not in name and name.endswith(".weight") and len(shape) == 2:
            module, rank = name.removeprefix("model.").removesuffix(".weight"), min(LORA_RANK, *shape)
            layout[module + ".lora_A.weight"] = (dtype, (rank, shape[1]))
            layout[module + ".lora_B.weight"] = (dtype, (shape[0], rank))
    return layout


def gemma_layout(config: Mapping[str, object]) -> Layout:
    """Name -> (dtype, shape) of a Gemma 3 text model as Hugging Face stores it."""
    text = config["text_config"]
    hidden, inner, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    query, key = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    shapes = {"embed_tokens": (text["vocab_size"], hidden), "norm": (hidden,)}
    for layer in range(text["num_hidden_layers"]):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "pre_feedforward_layernorm": (hidden,),
            "post_feedforward_layernorm": (hidden,), "self_attn.q_norm": (head,), "self_attn.k_norm": (head,),
            "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner)}.items()}
    return {f"language_model.model.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}


def header_bytes(layout: Layout, metadata: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """A safetensors header (length prefix included) and the number of data bytes behind it."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset


def random_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Weights that keep signals near unit size: 1/sqrt(fan in), norms and statistics around 1, small biases."""
    noise = torch.randn(shape, device=device, dtype=torch.float32)
    leaf = name.rpartition(".")[2]
    if "std-of-means" in name:
        value = 1 + 0.05 * noise.abs()
    elif "norm" in name and len(shape) == 1:
        value = 0.05 * noise if "language_model" in name else 1 + 0.05 * noise  # Gemma adds 1 itself
    elif leaf == "filter":
        value = torch.softmax(0.5 * noise, dim=-1)
    elif "mel_stft" in name:
        value = noise.abs() / shape[-1] if "mel_basis" in name else noise / math.sqrt(shape[-1])
    elif len(shape) < 2 or "table" in name or leaf in ("alpha", "beta"):
        value = 0.05 * noise
    elif leaf == "learnable_registers" or "embed_tokens" in name:
        value = noise * (1.0 if leaf == "learnable_registers" else 0.02)
    else:
        value = noise / math.sqrt(math.prod(shape[1:]))
    return value.to(dtype)


def _tensors(layout: Layout, device: torch.device) -> Iterator[torch.Tensor]:
    for name, (dtype, shape) in layout.items():
        yield random_tensor(name, shape, DTYPES[dtype], device)


def write(path: Path, layout: Layout, metadata: Mapping[str, str] | None, device: torch.device) -> int:
    """Write one file of random weights; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, size = header_bytes(layout, metadata)

    def flush(file: BinaryIO, tensor: torch.Tensor) -> None:
        file.write(memoryview(tensor.contiguous().view(torch.uint8).cpu().numpy().reshape(-1)))

    with path.open("wb") as file:
        file.write(header)
        for tensor in _tensors(layout, device):
            flush(file, tensor)
    return len(header) + size


def write_gemma(folder: Path, config: Mapping[str, object], device: torch.device) -> int:
    """Write a Gemma folder: config, random weights, and the tiny model's tokenizer (its ids are valid here)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "processor_config.json",
                 "preprocessor_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return write(folder / "model.safetensors", gemma_layout(config), None, device)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--monolith", type=Path)
    parser.add_argument("--gemma", type=Path)
    parser.add_argument("--lora", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    for path, function in ((args.monolith, lambda path: write(path, *manifest_22b(), device)),
                           (args.gemma, lambda path: write_gemma(path, GEMMA_12B, device)),
                           (args.lora, lambda path: write(path, lora_layout(), None, device))):
        if path is not None:
            start = time.perf_counter()
            size = function(path)
            print(f"{path.name}: {size / 1e9:.1f} GB in {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
