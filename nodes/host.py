"""The only file that talks to ComfyUI: folders, devices and memory, progress, previews, interruption, output files.

`Residency` is how weights of `ltx23_core` live under ComfyUI's memory management: every component stands in
ComfyUI's list of loaded models, is counted at its true size, and is released when ComfyUI wants the room.
"""
from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import folder_paths
import torch
from comfy.cli_args import args as host_arguments
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension as ComfyExtension
from comfy_api.latest import InputImpl, io, ui
from PIL import Image

from ..ltx23_core.errors import MediaError

if TYPE_CHECKING:
    from ..ltx23_core.runtime.component import Component
    from ..ltx23_core.sampling.run import StepInfo

NONE = "none"
PREVIEW_SIZE = 512  # pixels of the longer side
SECONDS_BETWEEN_TICKS = 0.25  # of a download's bar
MODEL_FOLDERS = ("checkpoints", "diffusion_models", "text_encoders", "vae", "loras", "latent_upscale_models",
                 "diffusers", "upscale_models", "vae_approx")

folder_paths.add_model_folder_path("ltx23_overlays", str(Path(folder_paths.models_dir) / "ltx23_overlays"))


# Model folders

def model_roots() -> list[tuple[str, Path]]:
    """The folders that may hold parts of LTX-2.3, as (ComfyUI's name, folder); each folder once."""
    found: dict[Path, str] = {}
    for name in MODEL_FOLDERS:
        if name in folder_paths.folder_names_and_paths:
            for path in folder_paths.get_folder_paths(name):
                found.setdefault(Path(path), name)
    return [(name, path) for path, name in found.items()]


def device_memory() -> int:
    """Bytes of the device that ComfyUI computes on; 0 where that is no limit of its own (CPU)."""
    device = mm.get_torch_device()
    return 0 if mm.is_device_cpu(device) else mm.get_total_memory(device)


def add_route(path: str, answer: Callable[[], Any]) -> None:
    """Serve JSON at an address of ComfyUI's server; nothing happens where there is none (unit tests)."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None:
        return
    from aiohttp import web  # which a server has loaded

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(answer))

    server.routes.get(path)(handle)


def model_folders(name: str) -> list[Path]:
    """ComfyUI's places for a kind of model, the preferred one first."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(name)]


def manifest_path(name: str) -> Path:
    """Where the manifest of an overlay is written: the first folder registered for `ltx23_overlays`."""
    return model_folders("ltx23_overlays")[0] / name


def resume_folder() -> Path:
    """Where the finished windows of a long video are kept until it is complete: survives a restart of ComfyUI."""
    return Path(folder_paths.get_user_directory()) / "ltx23_long_video"


# Devices and memory

class LTX23Component(torch.nn.Module):
    """What a `ModelPatcher` wraps (ComfyUI logs the name): a component behind a module without parameters of its own.

    The component's module is not wrapped itself: its parameters come and go with loading, and some modules (those
    of transformers) have a read-only `device`, which ModelPatcher wants to set.
    """

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.component = component


class _ComponentPatcher(ModelPatcher):
    """Tells ComfyUI the truth about a component, and loads or releases it whole.

    A partly loaded plain torch module cannot run, so: `partially_load` loads all, `partially_unload` frees nothing
    (ComfyUI then detaches the whole), and `detach` drops the weights. They are read again from their files, hence
    there is no copy in RAM while they are off the device. Overrides take extra arguments because newer hosts pass some.
    """

    def model_size(self) -> int:
        """Bytes of the weights when loaded."""
        return self.model.component.size_bytes

    def loaded_size(self) -> int:
        """Bytes of the weights on the device now."""
        return self.model.component.loaded_bytes

    def partially_load(self, device_to: torch.device, *_: Any, **__: Any) -> int:  # noqa: ANN401
        """Load everything, whatever the budget; ComfyUI has made room before. Returns the bytes added."""
        before, component = self.loaded_size(), self.model.component
        try:
            component.load(device_to, mm.throw_exception_if_processing_interrupted)
        except BaseException:
            component.release()  # loaded before and changed now: ComfyUI has taken it out of its list already
            raise
        self._note(device_to)
        return self.loaded_size() - before

    def partially_unload(self, *_: Any, **__: Any) -> int:  # noqa: ANN401
        """Free nothing: ComfyUI then calls `detach`."""
        return 0

    def detach(self, unpatch_all: bool = True) -> torch.nn.Module:
        """Release the weights; with `unpatch_all` False only the list entry goes (ComfyUI is about to renew it)."""
        if unpatch_all:
            self.model.component.release()
            self._note(self.offload_device)
        return super().detach(unpatch_all)

    def _note(self, device: torch.device) -> None:
        self.model.device = device
        self.model.model_loaded_weight_memory = self.loaded_size()


def _offload_device(component: Component) -> torch.device:
    """Where ComfyUI thinks that a component rests: its own answer for each kind."""
    if component.name.startswith("text_encoder"):
        return mm.text_encoder_offload_device()
    if component.name in ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder"):
        return mm.vae_offload_device()
    return mm.unet_offload_device()


class Residency:
    """Where the weights of one pipeline are: in ComfyUI's list of loaded models (contract: docs/architecture.md).

    Holds the patchers; ComfyUI's list has weak references, so both end with the pipeline.
    """

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._patchers: dict[int, _ComponentPatcher] = {}

    @property
    def device(self) -> torch.device:
        """The device that ComfyUI computes on."""
        return mm.get_torch_device()

    @property
    def capacity_bytes(self) -> float:
        """Bytes that weights and activations could take together if everything else left the device."""
        if mm.is_device_cpu(self.device):
            return float("inf")
        loaded = sum(each.model_loaded_memory() for each in mm.current_loaded_models
                     if each.model is not None and each.device == self.device)
        return mm.get_free_memory(self.device) + loaded - mm.extra_reserved_memory()

    def use(self, *components: Component, activation_bytes: int = 0) -> None:
        """Bring components onto their devices, after ComfyUI has made room for them and for the activations.

        Called before every stage: in between, other nodes may have evicted them.
        """
        mm.load_models_gpu([self._patcher(component) for component in components], memory_required=activation_bytes)

    def check(self) -> None:
        """Raise ComfyUI's own exception if the user pressed cancel."""
        mm.throw_exception_if_processing_interrupted()

    def _patcher(self, component: Component) -> _ComponentPatcher:
        if id(component) not in self._patchers:  # the patcher keeps the component alive, so the id stays its own
            devices = self.device, _offload_device(component)
            self._patchers[id(component)] = _ComponentPatcher(LTX23Component(component), *devices)
        return self._patchers[id(component)]


def intermediate(tensor: torch.Tensor) -> torch.Tensor:
    """A node output: float32 on the device where ComfyUI keeps what lies between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)


# Progress and previews

def step_progress() -> Callable[[StepInfo], None]:
    """A callback for `Pipeline.sample`: one tick of the node's bar and one preview image a step."""
    bar = ProgressBar(1)

    def on_step(info: StepInfo) -> None:
        # The middle frame: with an image condition the first one shows nothing new.
        image = None if info.preview is None else Image.fromarray(info.preview[len(info.preview) // 2].numpy())
        bar.update_absolute(info.step, info.steps, image and ("JPEG", image, PREVIEW_SIZE))

    return on_step


def counted(total: int) -> Callable[[Iterable[torch.Tensor]], Iterator[torch.Tensor]]:
    """A function that passes chunks of frames on; the node's bar advances by their frames out of `total`."""
    bar = ProgressBar(total)

    def passed(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))

    return passed


def ticks(total: int) -> Callable[[], None]:
    """A callback that advances the node's bar by one of `total` at each call."""
    bar = ProgressBar(total)
    return lambda: bar.update(1)


def byte_progress() -> Callable[[int, int, str], None]:
    """A callback for downloads: the node's bar, some times a second; raises ComfyUI's exception on cancel."""
    bar, last = ProgressBar(1), 0.0

    def on_progress(done: int, total: int, _: str) -> None:
        nonlocal last
        mm.throw_exception_if_processing_interrupted()
        if total and (done == total or time.monotonic() - last > SECONDS_BETWEEN_TICKS):
            last = time.monotonic()
            bar.update_absolute(done, total)

    return on_progress


# Output files

def output_problem(prefix: str) -> str | None:
    """What is wrong with a file name prefix, or None: it must stay in the output folder."""
    root = Path(folder_paths.get_output_directory()).resolve()
    if prefix.strip() and (root / prefix).resolve().is_relative_to(root):
        return None
    return str(MediaError(f"filename_prefix is {prefix!r}", "a name inside ComfyUI's output folder",
                          "Use a relative name such as video/LTX-2.3."))


def output_file(prefix: str, width: int, height: int, suffix: str = ".mp4") -> tuple[Path, ui.SavedResult]:
    """The next free file for a prefix in the output folder, and the record that makes the page show it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height)
    file = f"{name}_{counter:05}_{suffix}"
    return Path(folder) / file, ui.SavedResult(file, subfolder, io.FolderType.output)


def metadata(hidden: io.HiddenHolder) -> dict[str, str]:
    """What ComfyUI writes into saved files, as JSON: dropping the file on the page brings the workflow back.

    Empty where the server runs with --disable-metadata.
    """
    if host_arguments.disable_metadata:
        return {}
    found = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {key: json.dumps(value) for key, value in found.items() if value is not None}


def saved_videos(saved: Sequence[tuple[Path, ui.SavedResult]]) -> io.NodeOutput:
    """VIDEO outputs (a list) of files that are already in the output folder, shown in the node."""
    return io.NodeOutput([InputImpl.VideoFromFile(str(path)) for path, _ in saved],
                         ui=ui.PreviewVideo([record for _, record in saved]))
