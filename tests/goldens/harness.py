"""Reads a golden data set of the form of tests/goldens: index, cases, tiny checkpoint and companions.

Nothing here knows a size, a layer count or a file name of one data set: all come from index and checkpoint.
"""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from torch import nn

from ltx23_core.lora.plan import LoraUse, lora_pairs
from ltx23_core.models.registry import build
from ltx23_core.overlay import Overlay, materialize
from ltx23_core.pipeline import Pipeline
from ltx23_core.runtime.load import load_module

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
        """Compare one output: max|got - want| <= tolerance * max|want|; integers and shapes exactly.

        A name that the index does not have is passed over: another data set may ask for less. It cannot hide
        anything, since `finish` asks for every output that the index has.
        """
        if name not in self.entry["outputs"]:
            return
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


_UPSCALERS = ("spatial-upscaler-x2", "spatial-upscaler-x1.5", "temporal-upscaler-x2")


@cache
def overlay() -> Overlay:
    """The tiny checkpoint with all its companions, described in a temporary folder."""
    folder = tempfile.TemporaryDirectory(prefix="ltx23-goldens-")
    _KEEP.append(folder)
    return materialize(CHECKPOINT, GEMMA, upsamplers=[p for p in map(companion, _UPSCALERS) if p.exists()],
                       distilled_lora=companion("distilled-lora"), output=Path(folder.name) / "overlay.json")


_KEEP: list[tempfile.TemporaryDirectory[str]] = []  # deleted at exit


@cache
def module(component: str) -> nn.Module:
    """A component with the tiny checkpoint's weights in float32 on the CPU."""
    entry = overlay().require(component)
    built = build(component, entry.config)
    load_module(built, entry.tensors, "cpu", torch.float32, name=component)
    return built


def lora_module(strength: float) -> nn.Module:
    """The transformer with the distilled LoRA fused in float32: weight + strength * (B @ A)."""
    entry = overlay().require("transformer")
    fused = build("transformer", entry.config)
    use = LoraUse(lora_pairs(overlay().require("distilled_lora").tensors), strength)
    load_module(fused, entry.tensors, "cpu", torch.float32, loras=[use], name="transformer")
    return fused


def latent_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std (channels,) of the video VAE's latents."""
    buffers = dict(module("video_decoder").named_buffers())
    return buffers["per_channel_statistics.mean-of-means"], buffers["per_channel_statistics.std-of-means"]


@cache
def pipeline() -> Pipeline:
    """The whole library on the tiny checkpoint, float32 on the CPU."""
    return Pipeline(overlay(), device="cpu", dtype="fp32")
