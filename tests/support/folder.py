"""Model folders with the true names and shapes of the 22B, recognised from headers alone: no file is written."""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ltx23_core.overlay.bytes.ggml import ggml_ref
from ltx23_core.overlay.bytes.header import Header
from ltx23_core.overlay.bytes.source import AnyRef, SourceFile, TensorRef, tensor_bytes
from ltx23_core.overlay.shelf.facts import Facts, facts_of
from ltx23_core.overlay.shelf.identify_file import name_it
from ltx23_core.overlay.shelf.shelf import Item
from tests.support.overlay import Layout, as_layout, manifest_22b

P = "model.diffusion_model."
Described = tuple[dict[str, AnyRef], dict[str, str]]
METADATA = {"config": json.dumps(manifest_22b()["metadata"]["config"])}


def official(*prefixes: str) -> Layout:
    """Tensors of the official 22B checkpoint under these prefixes."""
    return {name: each for name, each in as_layout(manifest_22b()["tensors"]).items() if name.startswith(prefixes)}


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a quantiser touches a tensor: matrices of the transformer's blocks."""
    return name.endswith(".weight") and len(shape) == 2 and "transformer_blocks." in name and "connector" not in name


def quantised(layout: Layout, form: str) -> Layout:
    """The same with packed matrices in the blocks: "fp8", "nvfp4" or "mxfp8"."""
    made: Layout = {}
    for name, (dtype, shape) in layout.items():
        if not is_linear(name, shape):
            made[name] = (dtype, shape)
            continue
        rows, columns = shape
        tall = -(-rows // 128) * 128
        if form == "fp8":
            made |= {name: ("F8_E4M3", shape), f"{name}_scale": ("F32", ())}
        elif form == "mxfp8":
            made |= {name: ("F8_E4M3", shape), f"{name}_scale": ("U8", (tall, columns // 32))}
        else:
            made |= {name: ("U8", (rows, columns // 2)), f"{name}_scale": ("F8_E4M3", (tall, columns // 16)),
                     f"{name}_scale_2": ("F32", ())}
    return made


def refs(layout: Layout) -> dict[str, AnyRef]:
    """Tensors of a file in memory, one after the other."""
    end, made = 8, {}
    for name, (dtype, shape) in layout.items():
        size = tensor_bytes(dtype, shape)
        made[name] = TensorRef(Path("/none"), dtype, shape, end, end + size)
        end += size
    return made


def gguf(kind: str, connectors: bool = True) -> dict[str, AnyRef]:
    """A GGUF transformer: matrices of the blocks in one type, all else F32 or BF16."""
    made, end = {}, 8
    for name, (dtype, shape) in official(P).items():
        bare = name.removeprefix(P)
        if not connectors and "_connector." in bare:
            continue
        form = kind if is_linear(name, shape) and shape[1] % 256 == 0 else dtype
        plain = TensorRef(Path("/none"), "U8", shape, end, end)
        ref = ggml_ref(plain, form, shape)
        size = tensor_bytes("U8", ref.parts["weight"].shape) if form == kind else tensor_bytes(dtype, shape)
        ref = ggml_ref(TensorRef(Path("/none"), "U8", shape, end, end + size), form, shape)
        made[bare] = ref
        end += size
    return made


def gemma(form: str = "bf16", vision: bool = True) -> Layout:
    """The text encoder as ComfyUI's single file; ``form`` bf16, fp8 or nvfp4."""
    made: Layout = {"model.embed_tokens.weight": ("BF16", (262208, 3840)), "model.norm.weight": ("BF16", (3840,)),
                    "spiece_model": ("U8", (4_689_074,))}
    for layer in range(48):
        start = f"model.layers.{layer}."
        for part in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                     "post_feedforward_layernorm"):
            made[f"{start}{part}.weight"] = ("BF16", (3840,))
        made |= {f"{start}self_attn.{q}_norm.weight": ("BF16", (256,)) for q in "qk"}
        for name, shape in (("self_attn.q_proj", (4096, 3840)), ("self_attn.k_proj", (2048, 3840)),
                            ("self_attn.v_proj", (2048, 3840)), ("self_attn.o_proj", (3840, 4096)),
                            ("mlp.gate_proj", (15360, 3840)), ("mlp.up_proj", (15360, 3840)),
                            ("mlp.down_proj", (3840, 15360))):
            one = {f"transformer_blocks.{start}{name}.weight": ("BF16", shape)}
            packed = one if form == "bf16" else quantised(one, form)
            made |= {key.removeprefix("transformer_blocks."): value for key, value in packed.items()}
    if vision:
        made["vision_model.post_layernorm.weight"] = ("BF16", (1152,))
    return made


def gemma_gguf(kind: str) -> dict[str, AnyRef]:
    """The text encoder as GGUF reads it, with transformers' names and a tokenizer."""
    made, end = {}, 8
    for name, (dtype, shape) in gemma(vision=False).items():
        packed = len(shape) == 2
        ref = ggml_ref(TensorRef(Path("/none"), dtype, shape, end, end), kind if packed else dtype, shape)
        size = tensor_bytes("U8", ref.parts["weight"].shape) if packed else tensor_bytes(dtype, shape)
        made[name] = ggml_ref(TensorRef(Path("/none"), dtype, shape, end, end + size), kind if packed else dtype, shape)
        end += size
    return made


def lora(rank: int, modules: Callable[[str], bool] = lambda _: True, family: str = "2.3",
         names: str = "official") -> Layout:
    """A LoRA on Linear layers of the transformer, with ranks no larger than the layers."""
    made: Layout = {}
    for name, (_, shape) in official(P).items():
        path = name.removeprefix(P).removesuffix(".weight")
        old = family == "2.0" and ("gate" in path or "prompt" in path)
        if not name.endswith(".weight") or len(shape) != 2 or "_connector." in name or old or not modules(path):
            continue
        own = min(rank, *shape)
        a, b = ("lora_A", "lora_B") if names == "official" else ("lora_down", "lora_up")
        start = f"diffusion_model.{path}" if names == "official" else f"lora_unet_{path.replace('.', '_')}"
        made |= {f"{start}.{a}.weight": ("BF16", (own, shape[1])), f"{start}.{b}.weight": ("BF16", (shape[0], own))}
    return made


def reduced(most: int, without: tuple[str, ...] = ()) -> Layout:
    """A distilled LoRA reduced with another rank in each module, and without some modules."""
    made: Layout = {}
    for number, (name, (dtype, (rows, columns))) in enumerate(lora(384).items()):
        if any(word in name for word in without):
            continue
        rank = most - number // 2 % 40  # A and B of a module follow each other
        if ".lora_A." in name:
            made[name] = (dtype, (min(rank, rows), columns))
        else:
            made[name] = (dtype, (rows, min(rank, columns)))
    return made


def upscaler(name: str) -> Layout:
    """An official upscaler, or "2.0": LTX-2.0's, which resamples from four times the channels."""
    files = manifest_22b()["upscalers"]
    if name != "2.0":
        return as_layout(next(entry["tensors"] for file, entry in files.items() if name in file))
    made = as_layout(next(entry["tensors"] for file, entry in files.items() if "x1.5" in file))
    return made | {"upsampler.conv.weight": ("BF16", (4096, 1024, 3, 3)), "upsampler.conv.bias": ("BF16", (4096,))}


def attention_only(path: str) -> bool:
    """What a style LoRA usually changes."""
    return ".attn1." in path or ".attn2." in path


def bare(layout: Layout, prefix: str) -> Layout:
    """Without a prefix."""
    return {name.removeprefix(prefix): each for name, each in layout.items()}


MAKE: dict[str, Callable[[], Described]] = {
    "whole": lambda: (refs(official("")), METADATA),
    "whole fp8": lambda: (refs(quantised(official(""), "fp8")), METADATA),
    "whole nvfp4": lambda: (refs(quantised(official(""), "nvfp4")), METADATA),
    "transformer": lambda: (refs(official(P)), METADATA),
    "transformer fp8": lambda: (refs(quantised(official(P), "fp8")), METADATA),
    "transformer mxfp8": lambda: (refs(quantised(official(P), "mxfp8")), METADATA),
    **{f"gguf {kind}": (lambda kind=kind: (gguf(kind), {"general.architecture": "ltxv"}))
       for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")},
    "gguf light": lambda: (gguf("Q4_K", connectors=False), {"general.architecture": "ltxv"}),
    "connectors": lambda: (refs({k: v for k, v in official(P).items() if "_connector." in k}), METADATA),
    "connectors fp32": lambda: (refs({k: ("F32", s) for k, (_, s) in official(P).items() if "_connector." in k}), {}),
    "projection": lambda: (refs(official("text_embedding_projection.")), METADATA),
    "video vae": lambda: (refs(bare(official("vae."), "vae.")), METADATA),
    "audio vae": lambda: (refs(official("audio_vae.", "vocoder.")), METADATA),
    "audio vae alone": lambda: (refs(official("audio_vae.")), METADATA),
    "vocoder": lambda: (refs(official("vocoder.")), METADATA),
    "gemma": lambda: (refs(gemma()), {}),
    "gemma fp8": lambda: (refs(gemma("fp8")), {}),
    "gemma nvfp4": lambda: (refs(gemma("nvfp4")), {}),
    **{f"gemma {kind}": (lambda kind=kind: (gemma_gguf(kind), {"general.architecture": "gemma3"}))
       for kind in ("Q4_K", "Q8_0")},
    "x2": lambda: (refs(upscaler("x2-1.1")), {}),
    "x1.5": lambda: (refs(upscaler("x1.5")), {}),
    "temporal": lambda: (refs(upscaler("temporal")), {}),
    "x2 of 2.0": lambda: (refs(upscaler("2.0")), {}),
    "lora 384": lambda: (refs(lora(384)), {}),
    "lora 111": lambda: (refs(lora(111)), {}),
    "lora kohya": lambda: (refs(lora(384, names="kohya")), {}),
    "lora 2.0": lambda: (refs(lora(384, family="2.0")), {}),
    "style": lambda: (refs(lora(32, attention_only)), {}),
    "big style": lambda: (refs(lora(128, attention_only)), {}),
    "style 64 everywhere": lambda: (refs(lora(64)), {}),
    "style 128 in the blocks": lambda: (refs(lora(128, lambda path: path.startswith("transformer_blocks."))), {}),
    "lora reduced": lambda: (refs(reduced(72, without=("adaln", "patchify"))), {}),
    "ic-lora": lambda: (refs(lora(64)), {"reference_downscale_factor": "2"}),
    "camera 2.0": lambda: (refs(lora(32, attention_only, family="2.0")), {}),
}


@cache
def facts(content: str) -> tuple[Facts, int]:
    """What the header of such a file says, and the size of the file."""
    tensors, metadata = MAKE[content]()
    found = facts_of(Header(SourceFile(Path("/none"), 0, 0, 0, "0" * 64), tensors, metadata))
    return found, found.end


def item(content: str, place: str) -> Item:
    """A file "folder/name" with such a content."""
    folder, _, name = place.partition("/")
    found, size = facts(content)
    return Item(folder, name, name_it(Path("/models") / place, found, size))
