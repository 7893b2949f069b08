"""Write files with the true 22B layout and random, non-degenerate bf16 weights: monolith, Gemma 3 12B folder, LoRA.

    python -m bench.generate_weights --monolith /tmp/w/ltx-2.3-22b-dev.safetensors --gemma /dev/shm/gemma \\
        --lora /dev/shm/lora.safetensors --fp8 /dev/shm/ltx-2.3-22b-dev-fp8.safetensors
"""
from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch

from ltx23_core.models.registry import build

REPO = Path(__file__).resolve().parents[1]
MANIFEST = REPO / "tests" / "goldens" / "manifest-22b-dev.json.gz"
TOKENIZER = REPO / "tests" / "goldens" / "tiny" / "gemma"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "processor_config.json",
                   "preprocessor_config.json")
LORA_RANK = 384
PREFIX = "model.diffusion_model."
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn,
          "I8": torch.int8, "U8": torch.uint8}
WRITERS = 12  # threads: what a tmpfs takes from one is 2 GB/s
CHUNK = 32 << 20  # bytes
GEMMA_12B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 3840, "intermediate_size": 15360,
                    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
                    "query_pre_attn_scalar": 256, "sliding_window": 1024, "vocab_size": 262208,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
}

UPSAMPLER_X2 = {"_class_name": "LatentUpsampler", "in_channels": 128, "mid_channels": 1024, "num_blocks_per_stage": 4,
                "dims": 3, "spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0,
                "rational_resampler": False}

Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def manifest_22b() -> tuple[Layout, dict[str, str]]:
    """Name -> (dtype, shape) of every tensor of the dev monolith, and its metadata as the file has it."""
    content = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    tensors = {name: (spec[0], tuple(spec[1:])) for name, spec in content["tensors"].items()}
    metadata = {key: value if isinstance(value, str) else json.dumps(value)
                for key, value in content["metadata"].items()}
    return tensors, metadata


def packed_layout(tensors: Layout, form: str = "fp8") -> Layout:
    """A layout with the matrices of the transformer's blocks quantised: fp8 with one scale each, int8, or NVFP4."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tensors.items():
        if is_packed(name, shape):
            layout |= _PACKED[form](name, *shape)
        else:
            layout[name] = dtype, shape
    return layout


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether `packed_layout` quantises a tensor."""
    return name.startswith(PREFIX + "transformer_blocks.") and name.endswith(".weight") and len(shape) == 2


def _fp8(name: str, rows: int, columns: int) -> Layout:
    return {name: ("F8_E4M3", (rows, columns)), f"{name}_scale": ("F32", ())}


def _int8(name: str, rows: int, columns: int) -> Layout:
    return {name: ("I8", (rows, columns)), f"{name}_scale": ("F32", (rows, 1))}


def _nvfp4(name: str, rows: int, columns: int) -> Layout:
    """Scales of 16 numbers, in pieces of 128 rows by 4 of them."""
    scales = -(-rows // 128) * 128, -(-columns // 64) * 4
    return {name: ("U8", (rows, columns // 2)), f"{name}_scale": ("F8_E4M3", scales), f"{name}_scale_2": ("F32", ())}


_PACKED = {"fp8": _fp8, "int8": _int8, "NVFP4": _nvfp4}


def transformer_layout(form: str = "") -> Layout:
    """Tensors of the transformer alone; ``form``: of `packed_layout`."""
    layout = {name: spec for name, spec in manifest_22b()[0].items()
              if name.startswith(PREFIX) and "_connector." not in name}
    return packed_layout(layout, form) if form else layout


def lora_layout() -> Layout:
    """The official distilled LoRA: every Linear of the transformer, rank 384 or what its size allows."""
    layout = {}
    for name, (dtype, shape) in manifest_22b()[0].items():
        if name.startswith(PREFIX) and "_connector." not in name and name.endswith(".weight") and len(shape) == 2:
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


def random_tensors(layout: Layout, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights that keep signals near unit size; the scale of an fp8 weight goes with the weight before it."""
    peak = 1.0
    for name, (dtype, shape) in layout.items():
        if name.endswith("_scale"):
            yield name, torch.tensor(peak / 448, dtype=torch.float32)
        elif dtype == "F8_E4M3":
            weight = random_tensor(name, shape, torch.float32, device)
            peak = weight.abs().max().item()
            yield name, (weight * (448 / peak)).to(torch.float8_e4m3fn)
        else:
            yield name, random_tensor(name, shape, DTYPES[dtype], device)


def write(path: Path, layout: Layout, metadata: Mapping[str, str] | None, device: torch.device) -> int:
    """Write one file of random weights, through buffers that several threads empty; returns its bytes.

    A file of that size is taken as it is: it has its name only once it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header, size = header_bytes(layout, metadata)
    if path.exists() and path.stat().st_size == len(header) + size:
        return len(header) + size
    unfinished = path.with_name(path.name + ".part")
    free: SimpleQueue[torch.Tensor] = SimpleQueue()
    for _ in range(2 * WRITERS):
        free.put(torch.empty(CHUNK, dtype=torch.uint8, pin_memory=device.type == "cuda"))
    with unfinished.open("wb") as file, ThreadPoolExecutor(WRITERS) as pool:
        file.write(header)
        file.flush()
        os.truncate(unfinished, len(header) + size)

        def put(buffer: torch.Tensor, count: int, at: int) -> None:
            try:
                data, done = memoryview(buffer.numpy())[:count], 0
                while done < count:
                    done += os.pwrite(file.fileno(), data[done:], at + done)
            finally:
                free.put(buffer)

        jobs, at = [], len(header)
        for _, tensor in random_tensors(layout, device):
            for part in tensor.contiguous().reshape(-1).view(torch.uint8).split(CHUNK):
                buffer = free.get()
                buffer[:len(part)].copy_(part)
                jobs.append(pool.submit(put, buffer, len(part), at))
                at += len(part)
        for job in jobs:
            job.result()
    unfinished.replace(path)
    return len(header) + size


def write_upsampler(path: Path, device: torch.device) -> int:
    """The official x2 upscaler's layout (spec/06) with random weights."""
    shapes = build("upsampler_x2", UPSAMPLER_X2).state_dict()
    layout = {name: ("BF16", tuple(value.shape)) for name, value in shapes.items()}
    return write(path, layout, {"config": json.dumps(UPSAMPLER_X2)}, device)


def write_gemma(folder: Path, config: Mapping[str, object], device: torch.device) -> int:
    """Write a Gemma folder: config, random weights, and the tiny model's tokenizer (its ids are valid here)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(TOKENIZER / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return write(folder / "model.safetensors", gemma_layout(config), None, device)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--monolith", type=Path)
    parser.add_argument("--gemma", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--upsampler", type=Path)
    parser.add_argument("--fp8", type=Path, help="the transformer alone, its matrices in fp8")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    for path, function in ((args.monolith, lambda path: write(path, *manifest_22b(), device)),
                           (args.gemma, lambda path: write_gemma(path, GEMMA_12B, device)),
                           (args.lora, lambda path: write(path, lora_layout(), None, device)),
                           (args.upsampler, lambda path: write_upsampler(path, device)),
                           (args.fp8, lambda path: write(path, transformer_layout("fp8"), manifest_22b()[1], device))):
        if path is not None:
            start = time.perf_counter()
            size = function(path)
            print(f"{path.name}: {size / 1e9:.1f} GB in {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
