"""The tiny model in every layout that is found on users' disks (spec/09), written from the official single file.

`tests.support.layouts_quantised` has those with quantised transformers, and writes all layouts to disk. Each writer
takes a folder and gives the arguments of `materialize`. Quantising writers also note, in `Written.numbers`, what every
quantised weight is by the stated formula, computed before packing.
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx23_core.overlay.names.layout import OFFICIAL
from ltx23_core.overlay.names.renames import FOLDERS, to_diffusers

from ..goldens.harness import CHECKPOINT, GEMMA
from . import quantisers

State = dict[str, Tensor]
T = "model.diffusion_model."


@dataclass
class Written:
    """What a writer wrote.

    Args:
        checkpoint: argument of `materialize`.
        arguments: its further arguments.
        layout: that the overlay must state.
        numbers: component and parameter name -> value of a quantised weight in float32.
        missing: components that the layout does not bring.
    """

    checkpoint: Path
    layout: str
    arguments: dict[str, object] = field(default_factory=dict)
    numbers: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@cache
def tiny() -> State:
    """The tiny checkpoint's tensors."""
    return load_file(CHECKPOINT)


@cache
def metadata() -> dict[str, str]:
    """Its metadata."""
    with safe_open(CHECKPOINT, framework="pt") as file:
        return dict(file.metadata())


def config(*parts: str) -> dict[str, str]:
    """Metadata with these parts of the config."""
    whole = json.loads(metadata()["config"])
    return {"config": json.dumps({part: whole[part] for part in parts})}


def part(*prefixes: str, strip: str = "", without: str = "\0") -> State:
    """Tensors below prefixes, which may be removed."""
    return {key.removeprefix(strip): tensor for key, tensor in tiny().items()
            if key.startswith(prefixes) and without not in key}


def save(state: State, path: Path, meta: dict[str, str] | None = None) -> Path:
    """Write a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, meta)
    return path


def is_block_linear(key: str, tensor: Tensor) -> bool:
    """Whether quantised files quantise this tensor (spec/09 §2)."""
    return ".transformer_blocks." in f".{key}" and key.endswith(".weight") and tensor.ndim == 2


def quantised(state: State, quantise: quantisers.Quantiser, name: Callable[[str], str],
              only: Callable[[str, Tensor], bool] = is_block_linear) -> tuple[State, State]:
    """Quantise the block linears of a state dict.

    Args:
        state: to be quantised.
        quantise: weight -> parts by suffix, and the numbers that they stand for.
        name: key -> parameter name.
        only: which weights.

    Returns:
        the new state dict; parameter name -> numbers.
    """
    result: State = {}
    numbers: State = {}
    for key, tensor in state.items():
        if not only(key, tensor):
            result[key] = tensor
            continue
        parts, numbers[name(key)] = quantise(tensor.float())
        result |= {key.removesuffix("weight") + suffix: value for suffix, value in parts.items()}
    return result, numbers


# --- unquantised

def renamed_monolith(folder: Path) -> Written:
    return Written(Path(shutil.copy(CHECKPOINT, folder / "my favourite model.safetensors")), OFFICIAL.name)


def split_prefixed(folder: Path) -> Written:
    """Kijai's split: transformer with connectors; projection; VAEs."""
    main = save(part(T), folder / "transformer.safetensors", config("transformer"))
    rest = [save(part("text_embedding_projection."), folder / "projection.safetensors"),
            save(part("vae.", strip="vae."), folder / "video.safetensors", config("vae")),
            save(part("audio_vae.", "vocoder."), folder / "audio.safetensors", config("audio_vae", "vocoder"))]
    return Written(main, "split file + video VAE without prefix", {"components": rest})


def split_bare(folder: Path) -> Written:
    """Wan2GP's split: bare names, six files; the configuration of the connectors is in the transformer only."""
    main = save({k: v for k, v in part(T, strip=T).items() if "_connector." not in k}, folder / "a.safetensors",
                config("transformer"))
    connectors = {k: v for k, v in part(T, strip=T).items() if "_connector." in k}
    rest = [save(connectors, folder / "b.safetensors"),
            save(part("text_embedding_projection.", strip="text_embedding_projection."), folder / "c.safetensors"),
            save(part("vae.", strip="vae."), folder / "d.safetensors", config("vae")),
            save(part("audio_vae.", strip="audio_vae."), folder / "e.safetensors", config("audio_vae")),
            save(part("vocoder.", strip="vocoder."), folder / "f.safetensors", config("vocoder"))]
    return Written(main, "transformer without prefix + connectors without prefix + text projection without prefix + "
                   "video VAE without prefix + audio VAE without prefix + vocoder without prefix",
                   {"components": rest})


def split_folder(folder: Path) -> Written:
    """A folder of split files, given as a whole, in sub-folders as they are downloaded."""
    written = split_prefixed(folder / "split_files")
    (folder / "split_files" / "vae").mkdir()
    shutil.move(folder / "split_files" / "video.safetensors", folder / "split_files" / "vae" / "video.safetensors")
    return Written(folder, written.layout)


def net_prefix(folder: Path) -> Written:
    """A transformer under another prefix beside a monolith that brings the rest."""
    other = save(part(T, strip="model."), folder / "x.safetensors", config("transformer"))
    return Written(Path(shutil.copy(CHECKPOINT, folder)), "transformer under diffusion_model. + official single file",
                   {"components": [other]})


def diffusers_folder(folder: Path, shards: int = 3) -> Written:
    """A diffusers pipeline: renamed, the transformer sharded with an index, config.json in every folder."""
    from ltx23_core.overlay import materialize
    from ltx23_core.overlay.export.configs import component_configs
    overlay = materialize(CHECKPOINT, output=folder / "official.json")
    for name, values in component_configs(overlay).items():
        state = {to_diffusers(component, key): tiny()[official] for component in FOLDERS[name]
                 for official in tiny() for place, key in OFFICIAL.places(official) if place == component}
        _shards(state, folder / name, shards if name == "transformer" else 1)
        (folder / name / "config.json").write_text(json.dumps(values))
    (folder / "official.json").unlink()
    shutil.copytree(GEMMA, folder / "text_encoder", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(GEMMA, folder / "tokenizer", ignore=shutil.ignore_patterns("model*", "config.json"))
    (folder / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"use_dynamic_shifting": true}')
    return Written(folder, "diffusers transformer + diffusers connectors + diffusers video VAE + "
                   "diffusers audio VAE + diffusers vocoder", {"text_encoder": None})


def _shards(state: State, folder: Path, count: int, stem: str = "diffusion_pytorch_model") -> None:
    if count == 1:
        save(state, folder / f"{stem}.safetensors", {"format": "pt"})
        return
    names = [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    table = {key: names[i % count] for i, key in enumerate(state)}
    for name in names:
        save({key: state[key] for key in state if table[key] == name}, folder / name, {"format": "pt"})
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


def sglang_folder(folder: Path) -> Written:
    """What sglang materialises (spec/01 §8), its source still there: encoder and audio VAE of another model."""
    diffusers_folder(folder, shards=1)
    (folder / "source").mkdir()
    source = Path(shutil.copy(CHECKPOINT, folder / "source" / "ltx-2.3-22b-dev.safetensors"))
    shutil.move(folder / "source", folder.with_name(folder.name + "-source"))
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    state = {k: v for k, v in part(T, strip=T).items() if "_connector." not in k}
    save(state, folder / "transformer" / "model.safetensors")
    values = json.loads((folder / "transformer" / "config.json").read_text())
    values |= json.loads(metadata()["config"])["transformer"] | {"ltx_variant": "ltx_2_3"}
    (folder / "transformer" / "config.json").write_text(json.dumps(values))
    for name, marks in (("vae", ("encoder.",)), ("audio_vae", ("",))):
        path = folder / name / "diffusion_pytorch_model.safetensors"
        stale = {k: v + 1 if k.startswith(marks) else v for k, v in load_file(path).items()}
        if name == "vae":
            save({k: v for k, v in load_file(path).items() if not k.startswith("decoder")},
                 folder / "vae" / "ltx23_image_encoder" / "model.safetensors")
            shutil.copy(folder / "vae" / "config.json", folder / "vae" / "ltx23_image_encoder")
        save(stale, path)
    (folder / ".sglang_overlay_materialized.json").write_text(json.dumps(
        {"source_dir": str(folder.with_name(folder.name + "-source")), "materializer_version": "v4"}))
    layout = ("transformer without prefix + diffusers connectors + official single file + diffusers video VAE + "
              "diffusers vocoder")
    return Written(folder, layout, {"text_encoder": None, "variant": "dev"}, missing=(str(source),))



# --- Gemma

def comfy_gemma(path: Path, quantise: quantisers.Quantiser | None = None, told: dict[str, object] | None = None,
                tokenizer: bool = True) -> tuple[Path, dict[str, Tensor]]:
    """ComfyUI's single file: other prefixes, the tokenizer as `spiece_model`; config.json beside for the tiny size.

    Returns:
        the file; parameter name -> numbers of its quantised weights.
    """
    state = {key.replace("language_model.model.", "model.").replace("vision_tower.", ""): tensor
             for key, tensor in load_file(GEMMA / "model.safetensors").items()}
    numbers: State = {}
    if quantise is not None:  # as in the mixed files: not all of them
        state, numbers = quantised(state, quantise, lambda key: key.removeprefix("model."), lambda key, t: (
            "_proj.weight" in key and key.startswith("model.layers.") and ".layers.1." not in key))
        if told is not None:
            data = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
            state |= {key.removesuffix("weight_scale") + "comfy_quant": data.clone() for key in list(state)
                      if key.endswith(".weight_scale")}
    if tokenizer:
        state["spiece_model"] = torch.frombuffer(bytearray((GEMMA / "tokenizer.model").read_bytes()),
                                                 dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(GEMMA / "config.json", path.parent)
    return save(state, path), numbers


def gemma_single_file(folder: Path) -> Written:
    """ComfyUI's Gemma in one file beside the monolith."""
    encoder, _ = comfy_gemma(folder / "text_encoder" / "comfy_gemma_3_12B_it.safetensors")
    return Written(Path(shutil.copy(CHECKPOINT, folder)), OFFICIAL.name,
                   {"text_encoder": encoder})


def gemma_shards(folder: Path) -> Written:
    """A Hugging Face Gemma folder in three shards with an index."""
    shutil.copytree(GEMMA, folder / "text_encoder", ignore=shutil.ignore_patterns("model*"))
    _shards(load_file(GEMMA / "model.safetensors"), folder / "text_encoder", 3, "model")
    return Written(Path(shutil.copy(CHECKPOINT, folder)), OFFICIAL.name, {"text_encoder": folder / "text_encoder"})


UNQUANTISED = (renamed_monolith, split_prefixed, split_bare, split_folder, net_prefix, diffusers_folder, sglang_folder,
               gemma_single_file, gemma_shards)
