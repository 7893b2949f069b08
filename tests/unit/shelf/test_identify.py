"""`identify`: the right files of every layout, and wrong ones; each sentence is asserted."""
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ltx23_core import identify
from ltx23_core.overlay.bytes.endings import shard_of
from ltx23_core.overlay.shelf.identity import Identity
from ltx23_core.overlay.shelf.remembered import Memory
from ltx23_core.overlay.shelf.shelf import Shelf, walk
from tests.goldens.harness import CHECKPOINT, GEMMA, ROOT

from ...support.overlay import (
    GEMMA_4B,
    Layout,
    as_layout,
    checkpoint_22b,
    gemma_folder,
    lora_22b,
    manifest_22b,
    upscalers_22b,
    write_sparse,
)

P = "model.diffusion_model."
WHOLE = ("transformer", "connectors", "text_projection", "video_encoder", "video_decoder", "audio_encoder",
         "audio_decoder", "vocoder")


def official(*prefixes: str) -> Layout:
    """Tensors of the official 22B checkpoint."""
    return {name: spec for name, spec in as_layout(manifest_22b()["tensors"]).items() if name.startswith(prefixes)}


def bare(tensors: Layout, prefix: str) -> Layout:
    return {name.removeprefix(prefix): spec for name, spec in tensors.items()}


def fp8(tensors: Layout, scale: str = "weight_scale") -> Layout:
    """The linear weights of blocks 2 to 45 in fp8 with scales."""
    result: Layout = {}
    for name, (dtype, shape) in tensors.items():
        inside = ".transformer_blocks." in f".{name}" and "connector" not in name and len(shape) == 2
        if inside and name.endswith(".weight") and 2 <= int(name.split("transformer_blocks.")[1].split(".")[0]) < 46:
            result |= {name: ("F8_E4M3", shape), f"{name.removesuffix('weight')}{scale}": ("F32", ())}
        else:
            result[name] = (dtype, shape)
    return result


def lora(module: str, width: int = 4096, rank: int = 16, suffixes: tuple[str, str] = (
        ".lora_A.weight", ".lora_B.weight")) -> Layout:
    return {module + suffixes[0]: ("BF16", (rank, width)), module + suffixes[1]: ("BF16", (width, rank))}


def without_audio(tensors: Layout) -> Layout:
    return {name: spec for name, spec in tensors.items() if "audio" not in name and "av_ca" not in name
            and "a2v" not in name}


def transformer_20() -> Layout:
    """The 19B transformer as far as its names and shapes tell."""
    return {f"{P}audio_adaln_single.linear.weight": ("BF16", (12288, 2048)),
            f"{P}caption_projection.linear_1.weight": ("BF16", (4096, 3840)),
            f"{P}transformer_blocks.0.scale_shift_table": ("F32", (6, 4096))}


def gemma_file(layers: int = 48, width: int = 3840, norm: bool = True, **more: tuple) -> Layout:
    names: Layout = {"model.embed_tokens.weight": ("BF16", (262208, width)), "model.norm.weight": ("BF16", (width,))}
    for i in range(layers):
        names |= {f"model.layers.{i}.{part}.weight": ("BF16", (256,)) for part in (
            "post_feedforward_layernorm", "pre_feedforward_layernorm", "self_attn.q_proj",
            *(("self_attn.q_norm",) if norm else ()))}
    return names | more


def one(*names: str, dtype: str = "F16", shape: tuple[int, ...] = (8, 8)) -> Layout:
    return {name: (dtype, shape) for name in names}


# name of the file -> (tensors, metadata or None, beginning of the sentence)
RIGHT: dict[str, tuple[Callable[[], Layout], str, tuple[str, ...] | None]] = {
    "ltx-2.3-22b-dev.safetensors": (lambda: official(""), "LTX-2.3 dev, monolith, bf16, 46.1 GB", WHOLE),
    "ltx-2.3-22b-distilled.safetensors": (lambda: official(""), "LTX-2.3 distilled, monolith, bf16, 46.1 GB", WHOLE),
    "ltx-2.3-22b-distilled-1.1.safetensors": (
        lambda: official(""), "LTX-2.3 distilled 1.1, monolith, bf16, 46.1 GB", WHOLE),
    "my model.safetensors": (
        lambda: official(""), "LTX-2.3, monolith, bf16, 46.1 GB; the name tells neither dev nor distilled", WHOLE),
    "ltx-2.3-22b-dev-fp8.safetensors": (lambda: fp8(official("")), "LTX-2.3 dev, monolith, fp8 scaled, 29.1 GB", WHOLE),
    "ltx-2.3-22b-distilled_transformer_only_fp8_scaled.safetensors": (
        lambda: fp8(bare(official(P), P), "scale_weight") | {"scaled_fp8": ("F8_E4M3", (0,))},
        "LTX-2.3 distilled, transformer, fp8 scaled, 25.0 GB", ("transformer", "connectors")),
    "ltx-2.3-22b-dev_transformer_only_bf16.safetensors": (
        lambda: official(P), "LTX-2.3 dev, transformer, bf16, 42.0 GB", ("transformer", "connectors")),
    "ltx-2.3-22b-dev_diffusion_model.safetensors": (
        lambda: {k: v for k, v in bare(official(P), P).items() if "connector" not in k},
        "LTX-2.3 dev, transformer, bf16, without connectors, 38.0 GB", ("transformer",)),
    "ltx-2.3-22b_embeddings_connector.safetensors": (
        lambda: {k: v for k, v in bare(official(P), P).items() if "_connector." in k},
        "LTX-2.3 text connectors, bf16, 4.0 GB", ("connectors",)),
    "ltx-2.3-22b-dev_embeddings_connectors.safetensors": (
        lambda: official("text_embedding_projection."), "LTX-2.3 text projection, bf16, 2.3 GB", ("text_projection",)),
    "LTX23_video_vae_bf16.safetensors": (
        lambda: bare(official("vae."), "vae."), "LTX-2.3 video VAE, bf16, 1.5 GB", ("video_encoder", "video_decoder")),
    "LTX23_audio_vae_bf16.safetensors": (
        lambda: official("audio_vae.", "vocoder."), "LTX-2.3 audio VAE with vocoder, bf16, 365 MB",
        ("audio_encoder", "audio_decoder", "vocoder")),
    "gemma_3_12B_it.safetensors": (
        lambda: gemma_file(spiece_model=("U8", (4_700_000,))),
        "Gemma 3 12B, text encoder, bf16, tokenizer inside, 2.0 GB", ("text_encoder", "tokenizer")),
    "camera.safetensors": (
        lambda: lora("diffusion_model.transformer_blocks.0.audio_attn1.to_q", 2048),
        "LTX-2 LoRA (2.3 or 2.0), official names, rank 16, bf16, ", ("lora",)),
    "speed_distilled.safetensors": (
        lambda: lora("diffusion_model.prompt_adaln_single.linear") | lora("diffusion_model.proj_out", rank=4),
        "LTX-2.3 LoRA, official names, rank 4 to 16, bf16, ", ("lora",)),  # two modules are no distilled LoRA
    "diffusers.safetensors": (
        lambda: lora("transformer.transformer_blocks.0.audio_to_video_attn.to_q"),
        "LTX-2 LoRA (2.3 or 2.0), diffusers names, rank 16, bf16, ", ("lora",)),
    "kohya.safetensors": (
        lambda: lora("lora_unet_transformer_blocks_0_attn1_to_k", suffixes=(".lora_down.weight", ".lora_up.weight")),
        "LTX LoRA (video modules only: 2.3, 2.0 or LTX-Video 13B), kohya names, rank 16, bf16, ", ("lora",)),
    "musubi.safetensors": (
        lambda: lora("lora_unet_model_transformer_blocks_0_audio_ff_net_2", suffixes=(
            ".lora_down.weight", ".lora_up.weight")),
        "LTX-2 LoRA (2.3 or 2.0), musubi names, rank 16, bf16, ", ("lora",)),
    "lokr.safetensors": (
        lambda: one("diffusion_model.transformer_blocks.0.audio_attn1.to_q.lokr_w1",
                    "diffusion_model.transformer_blocks.0.audio_attn1.to_q.lokr_w2"),
        "LTX-2 LoRA (2.3 or 2.0), LoKr names, fp16, ", ("lora",)),
}

WRONG_TENSORS: dict[str, tuple[Callable[[], Layout], str]] = {
    "LTX-2.0 checkpoint": (lambda: transformer_20() | one("vae.encoder.x", "vocoder.resblocks.0.convs1.0.weight"),
                           "LTX-2.0 checkpoint, bf16,"),
    "LTX-2.0 transformer": (transformer_20, "LTX-2.0 transformer, bf16,"),
    "LTX-2.0 projection": (lambda: one("text_embedding_projection.aggregate_embed.weight"), "LTX-2.0 text projection"),
    "LTX-2.0 audio VAE": (lambda: one("audio_vae.decoder.conv_in.conv.weight", "vocoder.resblocks.0.convs1.0.weight"),
                          "LTX-2.0 audio VAE"),
    "LTX-2.0 video VAE": (lambda: one("decoder.up_blocks.6.res_blocks.0.conv1.conv.weight",
                                      "per_channel_statistics.mean-of-means"),
                          "video VAE of LTX-2.0 or LTX-Video 0.9"),
    "LTX-2.5": (lambda: official(P) | {f"{P}keyframes_abs_pos_embedding": ("BF16", (1, 4096))}, "LTX-2.5 transformer,"),
    "LTX-2.5 by bias": (lambda: {k: v for k, v in official(P).items() if not k.endswith("ff.net.2.bias")},
                        "LTX-2.5 transformer,"),
    "LTX-Video 13B": (lambda: one("adaln_single.linear.weight", "caption_projection.linear_1.weight")
                      | {"patchify_proj.weight": ("BF16", (4096, 128))}, "LTX-Video 0.9 13B transformer"),
    "LTX-Video 2B": (lambda: one("adaln_single.linear.weight", "caption_projection.linear_1.weight")
                     | {"patchify_proj.weight": ("BF16", (2048, 128))}, "LTX-Video 0.9 transformer"),
    "image only": (lambda: without_audio(official(P)), "LTX-2.3 transformer without audio, bf16"),
    "SDXL": (lambda: one(f"{P}input_blocks.0.0.weight", f"{P}label_emb.0.0.weight"), "SDXL checkpoint, fp16, "),
    "SD 1.5": (lambda: one(f"{P}input_blocks.0.0.weight", "cond_stage_model.x"), "Stable Diffusion 1 or 2 checkpoint"),
    "Flux": (lambda: one("double_blocks.0.img_attn.norm.key_norm.scale"), "Flux model"),
    "Wan": (lambda: one("head.modulation", "blocks.0.cross_attn.k.weight"), "Wan model"),
    "HunyuanVideo": (lambda: one("txt_in.individual_token_refiner.blocks.0.norm1.weight"), "HunyuanVideo model"),
    "ControlNet": (lambda: one("control_model.input_blocks.0.0.weight"), "ControlNet"),
    "T5": (lambda: one("encoder.block.23.layer.1.DenseReluDense.wi_1.weight"), "T5 text encoder"),
    "UMT5": (lambda: one("encoder.block.0.layer.0.q.weight") | {"shared.weight": ("BF16", (256384, 8))},
             "UMT5 text encoder (Wan)"),
    "CLIP": (lambda: one("text_model.encoder.layers.0.mlp.fc1.weight"), "CLIP text encoder"),
    "Llama": (lambda: one("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"),
              "language model (Llama, Qwen, Mistral or the like)"),
    "Gemma 2": (lambda: gemma_file(42, 3584, norm=False), "Gemma 2 text encoder"),
    "Gemma 3 4B": (lambda: gemma_file(34, 2560), "Gemma 3 4B, bf16, 1.3 GB: LTX-2.3 needs Gemma 3 12B"),
    "Gemma 3 27B": (lambda: gemma_file(62, 5376), "Gemma 3 27B, bf16, 2.8 GB: LTX-2.3 needs Gemma 3 12B"),
    "Gemma 4": (lambda: gemma_file(tokenizer_json=("U8", (9,))), "Gemma 4 or Gemma 3n text encoder"),
    "Gemma without tokenizer": (gemma_file, "Gemma 3 12B, text encoder, bf16, 2.0 GB: no tokenizer inside, and no"),
    "SDXL LoRA": (lambda: lora("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, suffixes=(
        ".lora_down.weight", ".lora_up.weight")), "SDXL LoRA, kohya names, rank 16, bf16, 131 kB: not for LTX-2.3"),
    "SD 1.5 LoRA": (lambda: lora("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 768, suffixes=(
        ".lora_down.weight", ".lora_up.weight")), "Stable Diffusion 1.5 LoRA, kohya names"),
    "Flux LoRA": (lambda: lora("lora_unet_double_blocks_0_img_attn_qkv", suffixes=(
        ".lora_down.weight", ".lora_up.weight")), "Flux LoRA, kohya names"),
    "Wan LoRA": (lambda: lora("diffusion_model.blocks.0.cross_attn.k"), "Wan LoRA, official names"),
    "HunyuanVideo LoRA": (lambda: lora("diffusion_model.double_blocks.0.img_attn_qkv"), "HunyuanVideo LoRA"),
    "LTX-Video 2B LoRA": (lambda: lora("diffusion_model.transformer_blocks.0.attn1.to_q", 2048), "LTX-Video 2B LoRA"),
    "Gemma LoRA": (lambda: lora("text_encoders.model.layers.0.self_attn.q_proj", 3840),
                   "Gemma LoRA (for a prompt enhancer)"),
    "OFT": (lambda: one("diffusion_model.transformer_blocks.0.audio_attn1.to_q.oft_R.weight"),
            "LTX-2 LoRA (2.3 or 2.0), OFT names, fp16, 264 bytes: this dialect cannot be applied"),
    "quanto": (lambda: {k + "._data" if k.endswith("attn1.to_q.weight") else k: v for k, v in official(P).items()},
               "LTX-2.3, transformer, bf16, 42.0 GB: has quantised weights that cannot be read: quanto: 112 weights"),
    "tiny VAE": (lambda: one("decoder.22.bias", "decoder.1.weight"), "tiny preview VAE"),
    "pruned VAE": (lambda: one("decoder.up_blocks.8.res_blocks.0.conv1.conv.weight"),
                   "LTX-2.3 video VAE with other channel counts (pruned)"),
    "SD VAE": (lambda: one("decoder.up.0.block.0.conv1.weight"), "VAE of an image model"),
    "ESRGAN": (lambda: one("conv_first.weight"), "image upscaler (ESRGAN)"),
    "unknown": (lambda: one("some.weight"), "safetensors file of no known kind, fp16, 208 bytes"),
}

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46149321190\n"


def gguf_bytes(version: int = 3, architecture: str = "llama", tensors: int = 0) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()
    return (b"GGUF" + struct.pack("<IQQ", version, tensors, 1) + text("general.architecture")
            + struct.pack("<I", 8) + text(architecture))


WRONG_BYTES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.safetensors", b"", "empty file: the download did not begin"),
    "pointer": ("a.safetensors", POINTER,
                "Git LFS pointer, 136 bytes: the download never happened (the real file has 46.1 GB)"),
    "html": ("a.safetensors", b"<!DOCTYPE html><html><head>", "HTML page saved as .safetensors, 27 bytes"),
    "xml": ("a.safetensors", b"<?xml version='1.0'?><Error>", "HTML page saved as .safetensors, 28 bytes"),
    "json error": ("a.safetensors", b'{"error":"Repository not found"}',
                   "error message of the download site saved as .safetensors, 32 bytes"),
    "gated": ("a.safetensors", b"Access to model google/gemma-3-12b-it is restricted.",
              "error message of the download site saved as .safetensors, 52 bytes"),
    "text": ("a.safetensors", b"404: not there\n", "short text of 15 bytes, no weights"),
    "zip pickle": ("a.ckpt", b"PK\x03\x04" + bytes(600), "Python pickle (.pt, .pth, .ckpt), 604 bytes: can run code"),
    "raw pickle": ("a.pt", b"\x80\x02}q\x00" + bytes(600), "Python pickle"),
    "zeros": ("a.safetensors", bytes(4096), "only zeros at its beginning, 4 kB: an unfinished download"),
    "unfinished": ("a.safetensors.part", b"\x10\x00" * 600, "unfinished download, 1 kB so far"),
    "picture": ("a.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(600), "picture or video, 608 bytes"),
    "archive": ("a.safetensors", b"7z\xbc\xaf\x27\x1c" + b"\x01" * 600, "compressed archive"),
    "noise": ("a.safetensors", b"\xfe\xdc\xba\x98" * 200, "no weight file, 800 bytes"),
    "manifest": ("a.ltx23.json", b'{"id":"' + b"0" * 64 + b'","components":{}}', "overlay manifest of this pack"),
    "json": ("config.json", b'{"model_type": "gemma3"}', "JSON text, 24 bytes: part of a model folder"),
    "huge header": ("a.safetensors", (99_000_000).to_bytes(8, "little") + b'{"a":' + b" " * 90,
                    "truncated: its header alone has 99.0 MB, file has 103 bytes"),
    "bad json": ("a.safetensors", (12).to_bytes(8, "little") + b'{"a": nonsen', "safetensors file, 20 bytes, with a "
                 "damaged header"),
    "overlap": ("a.safetensors", b"", "safetensors file, 172 bytes, with a damaged header: b overlaps a"),
    "gguf llama": ("a.gguf", gguf_bytes() + bytes(27), "GGUF file with a model of type 'llama', empty, 96 bytes"),
    "gguf mmproj": ("a.gguf", gguf_bytes(3, "clip") + bytes(28), "GGUF file with the vision part of a text encoder"),
    "gguf version 1": ("a.gguf", gguf_bytes(1), "GGUF file, 69 bytes, of version 1"),
    "gguf cut": ("a.gguf", gguf_bytes(tensors=5)[:50], "GGUF file, 50 bytes, truncated"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_files(tmp_path: Path, name: str) -> None:
    make, sentence, brings = RIGHT[name]
    config = {"config": json.dumps(manifest_22b()["metadata"]["config"])}
    found = identify(write_sparse(tmp_path / name, make(), config))
    assert found.sentence.startswith(sentence), found.sentence
    assert found.usable and not found.fix and found.brings == brings


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors(tmp_path: Path, name: str) -> None:
    make, sentence = WRONG_TENSORS[name]
    found = identify(write_sparse(tmp_path / "file.safetensors", make()))
    assert found.sentence.startswith(sentence), found.sentence
    assert not found.usable and found.brings == () and found.fix.endswith(".")


@pytest.mark.parametrize("name", WRONG_BYTES)
def test_wrong_bytes(tmp_path: Path, name: str) -> None:
    file, content, sentence = WRONG_BYTES[name]
    if name == "overlap":
        table = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode()
        content = len(table).to_bytes(8, "little") + table + bytes(12)
        sentence = sentence.replace("172", str(len(content)))
    (tmp_path / file).write_bytes(content)
    found = identify(tmp_path / file)
    assert found.sentence.startswith(sentence), found.sentence
    assert not found.usable and found.brings == () and found.fix.endswith("."), found


def test_a_truncated_file_says_what_it_would_be(tmp_path: Path) -> None:
    file = checkpoint_22b(tmp_path / "ltx-2.3-22b-dev.safetensors")
    os.truncate(file, 12_000_000_000)
    found = identify(file)
    assert found.sentence == "LTX-2.3 dev, monolith, bf16, truncated: header promises 46.1 GB, file has 12.0 GB"
    assert found.kind == "truncated" and found.variant == "dev" and not found.usable
    os.truncate(file, 46_149_321_190 + 17)
    assert identify(file).sentence.endswith("46.1 GB: 17 bytes too long")


def test_upscalers_and_loras(tmp_path: Path) -> None:
    assert {path.name: identify(path).sentence for path in upscalers_22b(tmp_path)} == {
        "ltx-2.3-spatial-upscaler-x2-1.1.safetensors": "LTX-2.3 latent upscaler x2, bf16, 1.0 GB",
        "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors": "LTX-2.3 latent upscaler x1.5, bf16, 1.1 GB",
        "ltx-2.3-temporal-upscaler-x2-1.0.safetensors": "LTX-2.3 latent upscaler x2 in time, bf16, 262 MB"}
    found = identify(lora_22b(tmp_path / "ltx-2.3-22b-distilled-lora-384.safetensors"))
    assert found.sentence == "LTX-2.3 LoRA (distilled), official names, rank 32 to 384, bf16, 7.6 GB"
    assert found.variant == "distilled" and found.fits == {"width": 4096}


def test_gemma_folders(tmp_path: Path) -> None:
    folder = gemma_folder(tmp_path / "gemma-3-12b")
    assert identify(folder).sentence == "Gemma 3 12B, text encoder, bf16, folder, 23.5 GB"
    shard = identify(folder / "model-00003-of-00005.safetensors")
    assert shard.sentence == "shard 3 of 5: Gemma 3 12B, text encoder, bf16, folder, 23.5 GB" and shard.usable
    (folder / "model-00002-of-00005.safetensors").unlink()
    found = identify(folder)
    assert found.sentence.endswith("GB: 1 of 5 weight files missing (model-00002-of-00005.safetensors)")
    assert found.sentence.startswith("Gemma 3 12B, text encoder, folder") and not found.usable
    other = gemma_folder(tmp_path / "gemma-3-4b", GEMMA_4B)
    assert identify(other).sentence == "Gemma 3 4B, bf16, folder, 7.8 GB: LTX-2.3 needs Gemma 3 12B"
    bare_folder = gemma_folder(tmp_path / "no tokenizer")
    (bare_folder / "tokenizer.model").unlink()
    assert identify(bare_folder).sentence.endswith("no tokenizer in it")
    quantised = gemma_folder(tmp_path / "bnb")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (quantised / "config.json").write_text(json.dumps(config))
    assert identify(quantised).sentence.endswith("quantised by bitsandbytes, which cannot be read")
    (quantised / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert identify(quantised).sentence == "text encoder of type 'llama', folder, 23.5 GB: LTX-2.3 needs Gemma 3 12B"
    assert identify(GEMMA).usable


@pytest.fixture(scope="module")
def tiny_diffusers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ltx23_core import export, materialize

    folder = tmp_path_factory.mktemp("diffusers") / "LTX-2.3-Distilled-Diffusers"
    export(materialize(CHECKPOINT, GEMMA, output=folder.parent / "m.json"), "diffusers", folder)
    return folder


def test_diffusers_folders(tiny_diffusers: Path, tmp_path: Path) -> None:
    found = identify(tiny_diffusers)
    assert found.sentence.startswith("LTX-2.3 distilled, diffusers folder, bf16, 9.")
    assert set(found.brings) == {*WHOLE, "text_encoder"} and found.variant == "distilled" and found.usable
    assert identify(tiny_diffusers / "transformer").sentence == (
        "LTX-2.3 distilled, transformer, bf16, without connectors, diffusers folder, 1.3 MB")
    assert [name for name in walk(tiny_diffusers.parent)] == [tiny_diffusers.name]
    other = tmp_path / "sdxl"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert identify(other).sentence == "diffusers folder of 'StableDiffusionXLPipeline'"
    assert identify(tmp_path).sentence == "folder without weight files"


def test_hub_cache(tmp_path: Path) -> None:
    """A blob has no extension, a snapshot is a link, unfinished blobs and pointers to nothing are named."""
    repo = tmp_path / "models--Lightricks--LTX-2.3"
    blob = checkpoint_22b(repo / "blobs" / ("ab" * 32))
    assert identify(blob).sentence.startswith("LTX-2.3, monolith, bf16, 46.1 GB; the name")
    snapshot = repo / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "ltx-2.3-22b-dev.safetensors").symlink_to(f"../../blobs/{blob.name}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c" * 40)
    assert identify(snapshot / "ltx-2.3-22b-dev.safetensors").sentence == "LTX-2.3 dev, monolith, bf16, 46.1 GB"
    assert identify(repo).sentence == "LTX-2.3 dev, monolith, bf16, 46.1 GB"
    assert list(walk(tmp_path)) == [f"{repo.name}/snapshots/{'c' * 40}/ltx-2.3-22b-dev.safetensors"]
    (snapshot / "gone.safetensors").symlink_to("../../blobs/gone")
    assert identify(snapshot / "gone.safetensors").sentence == "link to gone, which is not there"


def test_what_is_no_file(tmp_path: Path) -> None:
    assert identify(tmp_path / "nothing").sentence == "not there"
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    assert identify(loop).kind in ("broken_link", "unreadable")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert identify(tmp_path / "pipe.safetensors").sentence.startswith("no ordinary file")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert sorted(walk(tmp_path)) == ["loop.safetensors", "pipe.safetensors"]


def test_every_right_file_of_the_tiny_model_is_usable() -> None:
    for path in [*ROOT.joinpath("tiny").glob("*.safetensors"), GEMMA]:
        assert identify(path).usable, path


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not changed is not opened again; what moved is known by its header; what changed is read."""
    module = sys.modules["ltx23_core.overlay.shelf.identify_file"]
    file = write_sparse(tmp_path / "files" / "ltx-dev.safetensors", official(P))
    folder = gemma_folder(tmp_path / "files" / "gemma")
    memory = Memory(tmp_path / "memory.json")
    first = [identify(file, memory), identify(folder, memory)]
    memory.save()
    again = Memory(tmp_path / "memory.json")
    monkeypatch.setattr(module, "header_of", lambda path, *_: pytest.fail(f"{path} was read again"))
    assert [identify(file, again), identify(folder, again)] == first
    moved = file.rename(file.with_name("ltx-distilled.safetensors"))
    assert identify(moved, again).sentence == "LTX-2.3 distilled, transformer, bf16, 42.0 GB"
    monkeypatch.undo()
    os.truncate(moved, 10_000_000_000)
    assert "truncated" in identify(moved, again).sentence
    for content in (b"", b"[1]", b"\xff\xfe", b'{"tables": "other", "facts": {}, "files": {}}',
                    (tmp_path / "memory.json").read_bytes().replace(b'"end"', b'"ends"')):
        (tmp_path / "memory.json").write_bytes(content)
        assert identify(folder, Memory(tmp_path / "memory.json")) == first[1]
    Memory(tmp_path / "memory.json" / "below a file.json").save()


def test_shelf(tmp_path: Path) -> None:
    write_sparse(tmp_path / "checkpoints" / "ltx-dev.safetensors", official(P))
    write_sparse(tmp_path / "checkpoints" / "big-00001-of-00002.safetensors", one("a.weight"))
    write_sparse(tmp_path / "checkpoints" / "big-00002-of-00002.safetensors", one("b.weight"))
    (tmp_path / "unet").symlink_to(tmp_path / "checkpoints")
    gemma_folder(tmp_path / "text_encoders" / "gemma")
    roots = [(name, tmp_path / name) for name in ("checkpoints", "unet", "text_encoders", "not there")]
    items = Shelf(tmp_path / "memory.json").look(roots)
    assert [item.place for item in items] == [
        "models/checkpoints/big-00001-of-00002.safetensors", "models/checkpoints/ltx-dev.safetensors",
        "models/text_encoders/gemma"]
    assert all(isinstance(item.identity, Identity) and item.identity.kind != "unread" for item in items)


def test_a_broken_shard_beside_a_configuration(tmp_path: Path) -> None:
    """It is named, from the folder as from each of its files; asking for one never leads back to it."""
    folder = gemma_folder(tmp_path / "gemma")
    shard = sorted(folder.glob("*.safetensors"))[-1]
    os.truncate(shard, shard.stat().st_size - 2)
    for path in (folder, *folder.glob("*.safetensors")):
        found = identify(path)
        assert not found.usable and shard.name in found.sentence and "truncated" in found.sentence, found.sentence


def test_shard_names() -> None:
    assert shard_of("model-00001-of-00005.safetensors") == ("model", 1, 5, ".safetensors")
    assert shard_of("model-00001-of-00005.GGUF") == ("model", 1, 5, ".GGUF")
    assert shard_of("model-00001-of-00005.txt") is None


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "models" / "vae").mkdir(parents=True)
    (tmp_path / "models" / "vae" / "a.safetensors").write_bytes(POINTER)
    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "ltx23_core", "identify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True).stdout

    text = run(CHECKPOINT, tmp_path / "models")
    assert f"{CHECKPOINT}: LTX-2.3, monolith, bf16, 9.1 MB" in text
    assert "a.safetensors: Git LFS pointer, 136 bytes: the download never happened" in text
    assert json.loads(run("--json", GEMMA))[0]["brings"] == ["text_encoder"]
