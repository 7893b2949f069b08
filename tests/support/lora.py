"""What the tests of LoRAs share: files of every kind for the tiny model, overlays of several formats, comparisons."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx23_core import Overlay, materialize
from ltx23_core.quant.layers import QuantWeight
from tests.goldens.harness import CHECKPOINT, GEMMA, companion, overlay
from tests.support.gguf import k_mix, transformer_gguf
from tests.support.layouts import split_prefixed
from tests.support.quantisers import fp8

CPU = torch.device("cpu")
RUN = {"width": 64, "height": 64, "frames": 9, "seed": 3}
Tensors = dict[str, Tensor]
BLOCK = "transformer_blocks.1."


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size) + seed)) / 8


def write(path: Path, tensors: Tensors) -> Path:
    save_file({f"diffusion_model.{key}": value.contiguous() for key, value in tensors.items()}, path)
    return path


def plain(path: Path, *modules: str, rank: int = 3, seed: int = 0) -> Path:
    """A LoRA of plain pairs on some modules of the tiny model."""
    shapes = {name: ref.shape for part in ("transformer", "connectors")
              for name, ref in overlay().require(part).tensors.items()}
    tensors = {}
    for i, module in enumerate(modules):
        rows, columns = shapes[module + ".weight"]
        tensors[module + ".lora_A.weight"] = random(rank, columns, seed=seed + i)
        tensors[module + ".lora_B.weight"] = random(rows, rank, seed=seed + i + 50)
    return write(path, tensors)


def numbers(module: nn.Module) -> Tensors:
    """Every parameter and buffer as numbers, copied; of quantised layers with their LoRAs."""
    found = {name: value.clone() for name, value in module.state_dict().items()}
    return found | {f"{name}.weight": layer.numbers().clone() for name, layer in module.named_modules()
                    if isinstance(layer, QuantWeight)}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


def fp8_overlay(folder: Path) -> Overlay:
    """The tiny checkpoint with fp8 matrices and a scale each in the blocks."""
    quantise, tensors = fp8(), {}
    with safe_open(CHECKPOINT, "pt") as file:
        metadata = file.metadata()
        for key in file.keys():
            value = file.get_tensor(key)
            if ".transformer_blocks." in key and key.endswith(".weight") and value.ndim == 2:
                parts, _ = quantise(value.float())
                tensors |= {key.removesuffix("weight") + name: part for name, part in parts.items()}
            else:
                tensors[key] = value
    save_file(tensors, folder / "fp8.safetensors", metadata)
    return materialize(folder / "fp8.safetensors", GEMMA, distilled_lora=companion("distilled-lora"),
                       output=folder / "fp8.json")


def gguf_overlay(folder: Path) -> Overlay:
    transformer_gguf(folder / "mix.gguf", k_mix)
    return materialize(folder / "mix.gguf", GEMMA, components=split_prefixed(folder).arguments["components"],
                       distilled_lora=companion("distilled-lora"), output=folder / "gguf.json")


def write_kinds(folder: Path) -> dict[str, Path]:
    """LoRAs: plain ones that overlap, and every other kind, on weights, biases and tables."""
    a, q = BLOCK + "attn1.", BLOCK + "attn1.to_q"
    return {
        "style": plain(folder / "style.safetensors", q, BLOCK + "ff.net.0.proj", BLOCK + "audio_attn1.to_k",
                       BLOCK + "audio_to_video_attn.to_out.0", "proj_out", "adaln_single.linear"),
        "other": plain(folder / "other.safetensors", q, BLOCK + "audio_attn1.to_k", rank=5, seed=9),
        "mixed": write(folder / "mixed.safetensors", {
            q + ".lora_A.weight": random(3, 64), q + ".lora_B.weight": random(64, 3), q + ".dora_scale":
            random(64, 1) + 2, a + "to_k.lokr_w1": random(4, 4), a + "to_k.lokr_w2": random(16, 16),
            a + "to_v.diff": random(64, 64), a + "to_v.diff_b": random(64), a + "to_out.0.hada_w1_a": random(64, 2),
            a + "to_out.0.hada_w1_b": random(2, 64), a + "to_out.0.hada_w2_a": random(64, 2, seed=1),
            a + "to_out.0.hada_w2_b": random(2, 64, seed=1), BLOCK + "scale_shift_table.diff": random(9, 64)})}
