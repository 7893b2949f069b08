"""Reads a golden data set of the form of tests/goldens: index, cases, tiny checkpoint and companions.

Nothing here knows a size, a layer count or a file name of one data set: all come from index and checkpoint.
"""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from torch import nn

ROOT = Path(os.environ.get("LTX23_GOLDENS") or Path(__file__).parent)
INDEX = json.loads((ROOT / "cases" / "index.json").read_text(encoding="utf-8"))
HANDLERS: dict[str, Callable[[Case], None]] = {}


def case(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register the function that runs one case."""
    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        HANDLERS[name] = function
        return function
    return register


class Case:
    """One case: its settings, its inputs, and a check of every output against its tolerance."""

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, INDEX["cases"][name]
        self.settings = SimpleNamespace(**self.entry["settings"])
        self.raw_settings = self.entry["settings"]
        self.lines: list[str] = []
        self.failures: list[str] = []
        self.checked: set[str] = set()
        with safe_open(ROOT / "cases" / self.entry["file"], framework="pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        """Input name -> tensor, as stored (float32, int64, uint8)."""
        return {name: self.tensors[spec["key"]] for name, spec in self.entry["inputs"].items()}

    def check(self, name: str, got: torch.Tensor) -> None:
        """Compare one output: max|got - want| <= tolerance * max|want|; integers and shapes exactly."""
        spec = self.entry["outputs"][name]
        want = self.tensors[spec["key"]]
        self.checked.add(name)
        if tuple(got.shape) != tuple(want.shape):
            self.failures.append(f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
            return
        tolerance = spec["tolerance"]
        error = (got.detach().double() - want.double()).abs().max().item() if want.numel() else 0.0
        scale = want.double().abs().max().item() if want.numel() else 0.0
        relative = error / scale if scale else error
        ok = error <= tolerance * scale if tolerance else error == 0  # a NaN compares false: it fails
        self.lines.append(f"{self.name}/{name}: error {relative:.2e}, tolerance {tolerance:.0e}")
        if not ok:
            self.failures.append(self.lines[-1])

    def finish(self) -> None:
        """Every output of the index must have been checked, and every check must hold."""
        print("\n".join(self.lines))
        missing = set(self.entry["outputs"]) - self.checked
        assert not missing, f"{self.name}: outputs never checked: {sorted(missing)}"
        assert not self.failures, "\n".join(self.failures)


@cache
def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Tensor name -> shape, and the metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}, file.metadata() or {}


CHECKPOINT = ROOT / "tiny" / INDEX["checkpoint"]
GEMMA = ROOT / "tiny" / "gemma"


def companion(suffix: str) -> Path:
    """A companion file: it shares the checkpoint's stem (``<stem>-distilled-lora.safetensors``)."""
    return CHECKPOINT.with_name(f"{CHECKPOINT.stem}-{suffix}.safetensors")


def config(part: str) -> dict:
    """One part of the checkpoint's metadata config."""
    return json.loads(header(CHECKPOINT)[1]["config"])[part]


# Component -> (checkpoint prefix, prefix kept in the component's names).
_PREFIXES = {
    "transformer": [("model.diffusion_model.", "")], "connectors": [("model.diffusion_model.", "")],
    "text_projection": [("text_embedding_projection.", "")],
    "video_encoder": [("vae.encoder.", ""), ("vae.per_channel_statistics.", "per_channel_statistics.")],
    "video_decoder": [("vae.decoder.", ""), ("vae.per_channel_statistics.", "per_channel_statistics.")],
    "audio_encoder": [("audio_vae.encoder.", ""), ("audio_vae.per_channel_statistics.", "per_channel_statistics.")],
    "audio_decoder": [("audio_vae.decoder.", ""), ("audio_vae.per_channel_statistics.", "per_channel_statistics.")],
    "vocoder": [("vocoder.", "")],
}
_CONFIG_PART = {"transformer": "transformer", "connectors": "transformer", "video_encoder": "vae",
                "video_decoder": "vae", "audio_encoder": "audio_vae", "audio_decoder": "audio_vae",
                "vocoder": "vocoder"}


@cache
def module(component: str) -> nn.Module:
    """A component with the tiny checkpoint's weights in float32 on the CPU."""
    # Interim loader, replaced by the overlay's own as soon as that exists.
    from ltx23_core.models.registry import build
    if component.startswith("upsampler_"):
        suffix = {"upsampler_x2": "spatial-upscaler-x2", "upsampler_x1.5": "spatial-upscaler-x1.5",
                  "upsampler_temporal_x2": "temporal-upscaler-x2"}[component]
        path, prefixes = companion(suffix), [("", "")]
        part = json.loads(header(path)[1]["config"])
    elif component == "text_encoder":
        path, prefixes, part = GEMMA / "model.safetensors", [("", "")], json.loads((GEMMA / "config.json").read_text())
    else:
        path, prefixes = CHECKPOINT, _PREFIXES[component]
        if component == "text_projection":
            shapes = header(CHECKPOINT)[0]
            video = shapes["text_embedding_projection.video_aggregate_embed.weight"]
            audio = shapes["text_embedding_projection.audio_aggregate_embed.weight"]
            part = {"caption_channels": config("transformer")["caption_channels"], "in_features": video[1],
                    "video_features": video[0], "audio_features": audio[0]}
        else:
            part = config(_CONFIG_PART[component])
    built = build(component, part)
    state = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():
            for old, new in prefixes:
                connector = "_embeddings_connector." in key
                if key.startswith(old) and (component in ("connectors", "transformer")) <= (connector == (component == "connectors")):
                    state[new + key[len(old):]] = file.get_tensor(key).float()
    built.load_state_dict(state, strict=True, assign=True)
    return built


@cache
def lora_module(strength: float) -> nn.Module:
    """The transformer with the distilled LoRA fused in float32: weight + strength * (B @ A)."""
    import copy
    fused = copy.deepcopy(module("transformer"))
    weights = dict(fused.named_parameters())
    with safe_open(companion("distilled-lora"), framework="pt") as file:
        for key in file.keys():
            if key.endswith(".lora_A.weight"):
                a, b = file.get_tensor(key).float(), file.get_tensor(key.replace("lora_A", "lora_B")).float()
                weights[key.removeprefix("diffusion_model.").removesuffix(".lora_A.weight") + ".weight"].data += strength * (b @ a)
    return fused


def latent_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std (channels,) of the video VAE's latents."""
    buffers = dict(module("video_decoder").named_buffers())
    return buffers["per_channel_statistics.mean-of-means"], buffers["per_channel_statistics.std-of-means"]
