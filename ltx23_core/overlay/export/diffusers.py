"""The layout ``diffusers``: a folder for `LTX2Pipeline.from_pretrained`, as a list of files (spec/01 §3)."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ..bytes.endings import INDEX, TOKENIZER_FILES
from ..bytes.header import read_json
from ..bytes.source import AnyRef
from ..manifest import Overlay
from ..names.renames import FOLDERS, to_diffusers
from .configs import VERSION, component_configs, scheduler_config, upsampler_config
from .files import OutputFile, joined, json_file, sharded, stored_tensors, weights_file, whole_file

# Folder of the pipeline -> (library, class) in model_index.json.
_CLASSES = {
    "transformer": ("diffusers", "LTX2VideoTransformer3DModel"), "connectors": ("ltx2", "LTX2TextConnectors"),
    "vae": ("diffusers", "AutoencoderKLLTX2Video"), "audio_vae": ("diffusers", "AutoencoderKLLTX2Audio"),
    "vocoder": ("ltx2", "LTX2VocoderWithBWE"), "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
_TEXT_MODELS = {"gemma3": "Gemma3ForConditionalGeneration", "gemma3_text": "Gemma3ForCausalLM"}
_ENCODER_FILES = ("config.json", "generation_config.json", f"model{INDEX}")
_TOKENIZER_FILES = (*TOKENIZER_FILES, "special_tokens_map.json",
                    "added_tokens.json", "chat_template.json", "chat_template.jinja")


def diffusers_files(overlay: Overlay, shard_bytes: int) -> list[OutputFile]:
    """Every file of the folder; the pipeline's own model_index.json comes last.

    Upscalers and the distilled LoRA get folders of their own, which the pipeline does not load by itself.
    """
    configs = component_configs(overlay)
    for folder, (component, *_) in FOLDERS.items():
        if component.startswith("upsampler_") and component in overlay.components:
            configs[folder] = upsampler_config(overlay.components[component].config)
    files = []
    for folder, config in configs.items():
        parts = [_renamed(overlay, component) for component in FOLDERS[folder]]
        tensors = joined(*parts)
        files += [json_file(f"{folder}/config.json", config),
                  *sharded(folder, "diffusion_pytorch_model", tensors, shard_bytes)]
    if "distilled_lora" in overlay.components:
        files.append(weights_file("distilled_lora/pytorch_lora_weights.safetensors",
                                  _renamed(overlay, "distilled_lora"), {"format": "pt"}))
    index: dict[str, Any] = {**_CLASSES, "text_encoder": (None, None), "tokenizer": (None, None)}
    if "text_encoder" in overlay.components:
        copied, kind = _gemma_folder(overlay)
        files += copied
        index |= {"text_encoder": ("transformers", kind), "tokenizer": ("transformers", "GemmaTokenizerFast")}
    return [*files, json_file("scheduler/scheduler_config.json", scheduler_config(overlay.variant)),
            json_file("model_index.json", {"_class_name": "LTX2Pipeline", "_diffusers_version": VERSION,
                                           **dict(sorted(index.items()))})]


def _gemma_folder(overlay: Overlay) -> tuple[list[OutputFile], str]:
    """Text encoder and tokenizer, the files of their folders as they are; and the class that loads the first."""
    paths = set()
    for name in ("text_encoder", "text_encoder_vision"):
        if name in overlay.components:
            paths |= {ref.path for ref in overlay.components[name].tensors.values()}
    weights = sorted(paths)
    folder, tokenizer = weights[0].parent, overlay.tokenizer
    kind = None
    if (folder / "config.json").is_file():
        kind = _TEXT_MODELS.get(str(read_json(folder / "config.json").get("model_type")))
    if kind is None or tokenizer is None or any(path.parent != folder for path in weights):
        raise ExportError(f"the text encoder {weights[0]} is not part of a Hugging Face folder",
                          "config.json, tokenizer and model*.safetensors in one folder",
                          "Export an overlay that was made with such a folder, or without a text encoder.")
    encoder = _copies("text_encoder", [*map(folder.joinpath, _ENCODER_FILES), *weights])
    return [*encoder, *_copies("tokenizer", map(tokenizer.joinpath, _TOKENIZER_FILES))], kind


def _copies(place: str, paths: Iterable[Path]) -> list[OutputFile]:
    """Those of these files that are there, as they are."""
    return [whole_file(f"{place}/{path.name}", path) for path in paths if path.is_file()]


def _renamed(overlay: Overlay, component: str) -> dict[str, AnyRef]:
    config = overlay.require(component).config
    blocks = {"video_encoder": "encoder_blocks", "video_decoder": "decoder_blocks"}.get(component)
    steps = 0
    for name, _ in config.get(blocks, ()):
        steps += name != "res_x"
    renamed = {}
    for name, ref in stored_tensors(overlay, component, quantised=False).items():
        renamed[to_diffusers(component, name, steps)] = ref
    return renamed
