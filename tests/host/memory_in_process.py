"""Runs inside ComfyUI's source tree, started by test_memory.py: ComfyUI's memory management over our components.

The device is a CPU that ComfyUI takes for a GPU (`cpu:0`, which differs from `cpu` but holds real tensors) with a fixed
budget, so that all of its eviction logic runs. Prints one JSON object of what happened.
"""
from __future__ import annotations

import gc
import importlib
import json
import sys
import weakref
from pathlib import Path

SOURCE, PACK, MANIFEST = map(Path, sys.argv[1:4])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(SOURCE))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as mm  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from pack_by_path import import_pack  # noqa: E402

MB = 1024 * 1024
BUDGET = 6000 * MB  # ComfyUI keeps about 1.2 GB of it for itself
FAKE = torch.device("cpu", 0)


def fake_device() -> None:
    """Make ComfyUI believe in a GPU with `BUDGET` bytes."""
    def free_memory(device: torch.device | None = None, torch_free_too: bool = False) -> object:
        # What is there counts, listed or not: ComfyUI takes a model out of its list while it loads it again.
        # A recording's memory has no live tensor, so ComfyUI takes it for free.
        held = sum(component.loaded_bytes - component.recorded_bytes for component in FakeComponent.all)
        listed = (model.model for model in mm.current_loaded_models if model.model)
        held += sum(model.loaded_size() for model in listed
                    if not isinstance(getattr(model.model, "component", None), FakeComponent))
        free = BUDGET - held
        return (free, free) if torch_free_too else free

    mm.is_device_cpu = lambda device: False
    mm.get_torch_device = lambda: FAKE
    mm.text_encoder_device = lambda: FAKE
    mm.get_free_memory = free_memory
    mm.soft_empty_cache = lambda force=False: None
    mm.vram_state = mm.VRAMState.NORMAL_VRAM


class FakeComponent:
    """Behaves like `runtime.component.Component`, of any size, without holding it."""

    all: weakref.WeakSet[FakeComponent] = weakref.WeakSet()

    def __init__(self, name: str, megabytes: int, blocks: int = 0) -> None:
        self.name, self.size_bytes, self.loaded_bytes, self.loads = name, megabytes * MB, 0, 0
        self.blocks, self.streamed, self.recorded_bytes = blocks, 0, 0
        self.refs = {"weight": None}  # as many as the bar counts while it loads
        self.device = torch.device("meta")
        FakeComponent.all.add(self)

    def need(self) -> object:
        room = importlib.import_module("pack_x_path.ltx23_core.memory.room")
        each = self.size_bytes // max(self.blocks, 1)
        return room.Need(self.name, self.size_bytes, (each,) * self.blocks, each)

    def place(self, policy: object, device: torch.device, check: object = None) -> int:
        if self.device != device:
            self.loads += 1
        self.device, self.streamed = device, policy.streamed
        away = max(self.streamed - 2, 0) * self.size_bytes // max(self.blocks, 1)  # two places are shared
        self.loaded_bytes = self.size_bytes - away
        return self.loaded_bytes

    def release(self, pages: bool = False) -> None:
        self.device, self.loaded_bytes, self.streamed = torch.device("meta"), 0, 0
        self.recorded_bytes = 0


def foreign_model(megabytes: int) -> ModelPatcher:
    """Another pack's or core's model, of layers that ComfyUI may move one by one."""
    import comfy.ops
    linear = comfy.ops.disable_weight_init.Linear
    model = torch.nn.Sequential(*(linear(1024, 1024, bias=False, device="meta") for _ in range(megabytes // 4)))
    for module in model.modules():
        module.to = lambda *_: None  # meta tensors have no data to move; only the sizes matter here
    return ModelPatcher(model, FAKE, torch.device("cpu"))


def real_pipeline(host: object) -> dict[str, object]:
    """The tiny model as a Load node makes it: on the device ComfyUI says, counted, and gone with its last reference."""
    materialize = importlib.import_module("pack_x_path.ltx23_core.overlay").materialize
    pipeline_type = importlib.import_module("pack_x_path.ltx23_core.pipeline").Pipeline
    overlay = materialize(PACK / "tests/goldens/tiny/ltx-2.3-tiny.safetensors", output=MANIFEST)
    pipeline = pipeline_type.load(overlay, residency=host.Residency())
    latent = torch.zeros(1, pipeline.transformer_config.video.in_channels, 2, 2, 2)
    frames = sum(len(chunk) for chunk in pipeline.decode_video(latent))
    decoder = pipeline.component("video_decoder")
    listed = [model.model.model_size() for model in mm.current_loaded_models]
    held = sum(tensor.numel() * tensor.element_size() for tensor in decoder.module.state_dict().values())
    found = {"pipeline_frames": frames, "pipeline_device": str(decoder.device), "pipeline_bytes": [listed, [held]]}
    del pipeline, decoder, overlay
    return found | {"entries_after_pipeline": len(mm.current_loaded_models)}


def apart(host: object) -> dict[str, object]:
    """Text encoder and VAEs where ComfyUI wants them (--cpu-vae, --lowvram): on the real CPU, in float32."""
    materialize = importlib.import_module("pack_x_path.ltx23_core.overlay").materialize
    pipeline_type = importlib.import_module("pack_x_path.nodes.host.hosted").HostedPipeline
    overlay = materialize(PACK / "tests/goldens/tiny/ltx-2.3-tiny.safetensors", PACK / "tests/goldens/tiny/gemma",
                          output=MANIFEST)
    there = mm.text_encoder_device, mm.vae_device
    mm.text_encoder_device = mm.vae_device = lambda: torch.device("cpu")
    free = mm.get_free_memory
    mm.get_free_memory = lambda device=None, torch_free_too=False: (
        2 * MB if device == torch.device("cpu") else free(device, torch_free_too))  # of RAM: Gemma has 2 layers
    pipeline = pipeline_type.load(overlay, dtype="bf16", residency=host.Residency("resident"))
    context = pipeline.encode("a boat", "noise")
    latents = pipeline.sample(context, recipe="one_stage", steps=1, width=64, height=64, frames=9, seed=1)
    frames = sum(len(chunk) for chunk in pipeline.decode_video(latents.video))
    sound = pipeline.decode_audio(latents.audio)
    encoded = pipeline.encode_video(torch.zeros(1, 3, 1, 64, 64))
    names = "text_encoder", "transformer", "video_decoder", "audio_decoder", "vocoder", "video_encoder"
    found = {name: [str(pipeline.component(name).device), str(pipeline.component(name).dtype)] for name in names}
    found |= {"frames": frames, "sound": bool(torch.isfinite(sound.waveform).all()),
              "encoded": [str(encoded.device), str(encoded.dtype)], "streamed": pipeline.component(names[0]).streamed}
    view = pipeline.with_loras([])
    found |= {"dynamic": view.is_dynamic(), "ram": view.get_ram_usage(), "context": context.positive.video.nbytes,
              "cached_tensors": sum(tensor.nbytes for tensor in view._comfy_cache_tensors())}
    (mm.text_encoder_device, mm.vae_device), mm.get_free_memory = there, free
    return {"apart": found}


def pinned(host: object) -> dict[str, object]:
    """What a newer host takes for the size of the copy in pinned RAM that it makes room for (`pins_required`)."""
    load, seen = mm.load_models_gpu, []

    def loading(models: list[ModelPatcher], **options: object) -> None:
        seen.append([model.model_size() // MB for model in models])
        load(models, **options)

    mm.load_models_gpu = loading
    residency, component = host.Residency(), FakeComponent("transformer", 4000)
    residency.use(component)
    residency.use(component)
    [listed] = [model.model.model_size() // MB for model in mm.current_loaded_models]
    mm.load_models_gpu = load
    mm.unload_all_models()
    return {"pinned_copies": seen, "size_to_others": listed}


def beside(host: object) -> dict[str, object]:
    """What is said of room beside what is there, and what using it does; then a clip whose sound is asked for so."""
    residency = host.Residency()
    transformer, small = FakeComponent("transformer", 3000), FakeComponent("video_decoder", 500)
    residency.use(transformer)
    said = []
    for megabytes in (1500, 2600):
        said.append(residency.has_room(small, activation_bytes=megabytes * MB))
        residency.use(small, activation_bytes=megabytes * MB)
        said.append(transformer.loaded_bytes // MB)
    said.append(host.Residency("stream").has_room(small, activation_bytes=0))
    mm.unload_all_models()

    coding = importlib.import_module("pack_x_path.ltx23_core.coding")
    materialize = importlib.import_module("pack_x_path.ltx23_core.overlay").materialize
    pipeline_type = importlib.import_module("pack_x_path.ltx23_core.pipeline").Pipeline
    overlay = materialize(PACK / "tests/goldens/tiny/ltx-2.3-tiny.safetensors", output=MANIFEST)
    pipeline = pipeline_type.load(overlay, residency=host.Residency())
    picture, heard = torch.randn(1, 8, 10, 2, 2), torch.randn(1, 2, 9, 16)
    want, wave = torch.cat(list(pipeline.decode_video(picture, eight_bit=True))), pipeline.decode_audio(heard).waveform
    coding.gains = lambda device: True
    shown: list[str] = []
    host.progress._show = shown.append
    frames, sound = pipeline.decode_clip(picture, heard)
    same = bool(torch.equal(torch.cat(list(frames)), want) and torch.equal(sound().waveform, wave))
    start, asked = coding.Sound.start, []

    def cancelled(self: object) -> None:
        asked.append(1)
        mm.interrupt_current_processing(True)
        start(self)

    coding.Sound.start = cancelled
    frames, sound = pipeline.decode_clip(picture, heard)
    try:
        stopped = sum(map(len, frames))
    except mm.InterruptProcessingException:
        stopped = "stopped"
    coding.Sound.start = start
    return {"has_room": said, "clip_same": same, "clip_line": shown[-1], "clip_cancelled": stopped,
            "clip_listed": sorted(model.model.model.component.name for model in mm.current_loaded_models)}


def partly(host: object) -> dict[str, object]:
    """A component of 40 blocks that is larger than the device, beside others' models."""
    errors = importlib.import_module("pack_x_path.ltx23_core.errors")
    residency, found = host.Residency(), {}
    large = FakeComponent("transformer", 8000, blocks=40)
    shown: list[str] = []
    host.progress._show = shown.append
    residency.use(large, activation_bytes=1000 * MB)
    found["shown"] = list(shown)
    found["large_megabytes"], found["large_streamed"] = large.loaded_bytes // MB, large.streamed
    found["large_listed"] = [model.model.loaded_size() // MB for model in mm.current_loaded_models]
    residency.use(large, activation_bytes=1000 * MB)
    found["large_again"] = [large.loaded_bytes // MB, large.loads]
    other = foreign_model(1500)
    mm.load_models_gpu([other])
    found["beside_another"] = [large.loaded_bytes // MB, large.loads, other.loaded_size() // MB]
    residency.use(large, activation_bytes=3500 * MB)
    found["more_activations"] = [large.loaded_bytes // MB, large.loads]
    mm.unload_all_models()
    mm.vram_state = mm.VRAMState.NO_VRAM
    residency.use(large)
    found["large_no_vram"] = [large.streamed, large.loaded_bytes // MB]
    mm.unload_all_models()
    mm.vram_state = mm.VRAMState.HIGH_VRAM
    residency.use(large, activation_bytes=1000 * MB)
    found["large_high_vram"] = [large.streamed, large.loaded_bytes // MB]
    mm.vram_state = mm.VRAMState.NORMAL_VRAM
    mm.unload_all_models()
    found["large_after_unload"] = large.loaded_bytes
    for name, wish, activations in (("refused_resident", "resident", 0), ("refused_activations", "auto", 5900)):
        fresh = FakeComponent("transformer", 8000, blocks=40)
        try:
            host.Residency(wish).use(fresh, activation_bytes=activations * MB)
        except errors.OutOfMemoryError as error:
            found[name] = [str(error), fresh.loads]
    return found


def main() -> None:
    fake_device()
    host = import_pack(PACK, "nodes.host.memory")
    found: dict[str, object] = {}
    residency = host.Residency()
    text, transformer, decoder = (FakeComponent(*args) for args in (
        ("text_encoder", 3000), ("transformer", 4000), ("video_decoder", 500)))

    def resident() -> list[str]:
        return [part.name for part in (text, transformer, decoder) if part.loaded_bytes]

    residency.use(text, activation_bytes=100 * MB)
    found["first"] = resident()
    found["device"] = str(text.device)
    listed = [model.model.model_size() // MB for model in mm.current_loaded_models]
    found["listed_megabytes"] = listed
    residency.use(text, activation_bytes=100 * MB)
    found["loads_after_second_use"] = text.loads
    residency.use(transformer, activation_bytes=100 * MB)
    found["transformer_evicts_text"] = resident()
    residency.use(decoder, activation_bytes=100 * MB)
    found["small_one_fits_beside"] = resident()
    residency.use(decoder, activation_bytes=5000 * MB)
    found["activations_evict"] = resident()
    residency.use(transformer)
    residency.use(transformer, decoder)
    found["both_used_together"] = resident()
    found["transformer_loads"] = transformer.loads

    other = foreign_model(3000)
    mm.load_models_gpu([other])
    found["foreign_model_evicts"] = resident()
    found["foreign_loaded_megabytes"] = other.loaded_size() // MB
    residency.use(transformer)
    found["comes_back_whole"] = [resident(), transformer.loaded_bytes == transformer.size_bytes]
    mm.unload_all_models()
    found["after_unload_all"] = [resident(), len(mm.current_loaded_models)]
    mm.vram_state = mm.VRAMState.NO_VRAM
    residency.use(decoder)
    found["no_vram"] = decoder.loaded_bytes == decoder.size_bytes
    mm.vram_state = mm.VRAMState.NORMAL_VRAM

    residency.use(decoder)
    for part in (text, transformer, decoder):
        part.release()  # as it ends with its pipeline
    del other, residency
    gc.disable()
    found["entries_after_del"] = len(mm.current_loaded_models)  # by reference counting alone: no cycle
    found["free_after_del"] = mm.get_free_memory(FAKE) // MB

    found |= real_pipeline(host)
    gc.enable()
    gc.collect()

    residency = host.Residency()
    stopped = FakeComponent("transformer", 1000)
    stopped.place = lambda policy, device, check: check()
    mm.interrupt_current_processing(True)
    try:
        residency.use(stopped)
        found["interrupt_while_loading"] = "went on"
    except mm.InterruptProcessingException:
        found["interrupt_while_loading"] = "stopped"
    changed = FakeComponent("transformer", 1000)
    residency.use(changed)
    found["capacity"] = [residency.capacity_bytes, BUDGET - mm.extra_reserved_memory()]
    total = mm.get_total_memory
    mm.get_total_memory = lambda device=None: BUDGET + host.CONTEXT  # the process takes its part
    found["for_files"] = host.device_memory()
    mm.get_total_memory = total
    changed.recorded_bytes = 500 * MB
    changed.loaded_bytes += changed.recorded_bytes
    found["capacity_beside_recordings"] = residency.capacity_bytes
    changed.place = lambda policy, device, check: check()
    mm.interrupt_current_processing(True)
    try:
        residency.use(changed)
    except mm.InterruptProcessingException:
        found["bytes_after_interrupted_change"] = changed.loaded_bytes
    found["entries_after_interrupt"] = len(mm.current_loaded_models)
    mm.interrupt_current_processing(False)
    found |= pinned(host)
    found |= beside(host)
    gc.collect()
    found |= partly(host)
    found |= apart(host)
    print(json.dumps(found))


main()
