"""GGUF files of the tiny model, written by the gguf package as conversion tools write them."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ltx23_core.overlay.bytes.ggml import BLOCKS
from ltx23_core.overlay.bytes.header import read_header, read_json
from ltx23_core.weights.reader import read_tensors
from tests.goldens.harness import CHECKPOINT, GEMMA

gguf = pytest.importorskip("gguf")
Kinds = Callable[[str, tuple[int, ...]], str]
# float16 factors of a block: their bytes, for random blocks of types that the package cannot write.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2),
          "Q5_1": (0, 2)}


def random_blocks(kind: str, rows: int, row_values: int, seed: int = 0, exponent: int = 0xBB) -> np.ndarray:
    """Every byte random, less some bits of the factors' exponents: no quantiser writes infinite or huge ones."""
    values, size = BLOCKS[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (rows * row_values // values, size), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        raw[:, at + 1] &= exponent
    return raw.reshape(rows, -1)


def q8(name: str, shape: tuple[int, ...]) -> str:
    """The mix of a Q8_0 file: matrices quantised where rows allow, tables and small tensors F32 (spec/09 §2.8)."""
    if len(shape) != 2 or "table" in name or np.prod(shape) <= 1024:
        return "F32"
    return "Q8_0" if shape[1] % 32 == 0 else "BF16"


def k_mix(name: str, shape: tuple[int, ...]) -> str:
    """Like a K mix: 256 values a block where rows allow, blocks of 32 and F16 elsewhere."""
    if q8(name, shape) == "F32" or shape[1] % 32:
        return "F32" if q8(name, shape) == "F32" else "F16"
    order = ("Q4_K", "Q6_K", "Q5_K", "Q3_K", "Q2_K", "IQ4_XS") if shape[1] % 256 == 0 else (
        "Q4_0", "Q5_1", "Q8_0", "Q4_1", "Q5_0", "IQ4_NL")
    return order[sum(name.encode()) % len(order)]


def write_tensor(writer: object, name: str, tensor: torch.Tensor, kind: str) -> np.ndarray:
    """Add one tensor; gives the numbers that the file then holds, float32."""
    values = tensor.float().numpy()
    quant = gguf.GGMLQuantizationType[kind]
    if kind in ("F32", "F16"):
        data = values.astype({"F32": np.float32, "F16": np.float16}[kind])
        writer.add_tensor(name, data)
        return data.astype(np.float32)
    if kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"):
        raw = random_blocks(kind, values.shape[0], values.shape[1], sum(name.encode()), 0x8F)  # small factors
    else:
        raw = gguf.quants.quantize(values, quant)
    writer.add_tensor(name, raw, raw_dtype=quant)
    return gguf.quants.dequantize(raw, quant)


def finish(writer: object) -> None:
    """Write everything and close."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def transformer_gguf(path: Path, kinds: Kinds = q8, *, connectors: bool = True, prefix: str = "",
                     config: bool = True, architecture: str = "ltxv") -> dict[str, np.ndarray]:
    """The tiny transformer; gives the numbers by official name without prefix."""
    header = read_header(CHECKPOINT)
    writer = gguf.GGUFWriter(path, architecture)
    if config:
        writer.add_string("config", header.metadata["config"])
        writer.add_string("model_version", header.metadata["model_version"])
    start, want = "model.diffusion_model.", {}
    refs = {key: ref for key, ref in header.tensors.items()
            if key.startswith(start) and (connectors or "_connector." not in key)}
    for key, tensor in read_tensors(refs, "cpu", None):
        name = key.removeprefix(start)
        want[name] = write_tensor(writer, prefix + name, tensor, kinds(name, tuple(tensor.shape)))
    finish(writer)
    return want


LLAMA = {
    "embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gemma_gguf(path: Path, kinds: Kinds = q8) -> dict[str, np.ndarray]:
    """The tiny Gemma as llama.cpp's converter writes it; gives the numbers by transformers' name."""
    config = read_json(GEMMA / "config.json")["text_config"]
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(131072)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    add_tokenizer(writer)
    want = {}
    start = "language_model.model."
    refs = {key.removeprefix(start): ref for key, ref in read_header(GEMMA / "model.safetensors").tensors.items()
            if key.startswith(start)}
    for name, tensor in read_tensors(refs, "cpu", None):
        bare = name.removesuffix(".weight")
        layer = bare.split(".", 2) if bare.startswith("layers.") else None
        key = f"blk.{layer[1]}.{LLAMA[layer[2]]}" if layer else LLAMA[bare]
        norm = "norm" in name
        stored = write_tensor(writer, key + ".weight", tensor.float() + 1 if norm else tensor,
                              kinds(name, tuple(tensor.shape)))
        want[name] = stored - np.float32(1) if norm else stored
    finish(writer)
    return want


def add_tokenizer(writer: object) -> None:
    """The arrays that llama.cpp makes of tokenizer.model."""
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=str(GEMMA / "tokenizer.model"))
    writer.add_tokenizer_model("llama")
    ids = range(model.get_piece_size())
    writer.add_token_list([model.id_to_piece(i).encode() for i in ids])
    writer.add_token_scores([model.get_score(i) for i in ids])
    look_special = {"<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"}
    writer.add_token_types([6 if model.is_byte(i) else 2 if model.is_unknown(i) else 5 if model.is_unused(i) else
                            3 if model.is_control(i) or model.id_to_piece(i) in look_special else 1 for i in ids])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    writer.add_pad_token_id(model.pad_id())
    writer.add_add_space_prefix(False)
