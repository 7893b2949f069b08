"""Every file that ComfyUI's own LTX-2.3 templates name is in the catalogue, and known for what it is by its header."""
from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from ltx23_core.hub.catalogue import CATALOGUE, named
from ltx23_core.hub.request import parse
from ltx23_core.overlay.shelf.identify import identify
from tests.support.folder import reduced
from tests.support.overlay import write_sparse

PACKAGE = importlib.util.find_spec("comfyui_workflow_templates_json")
NEEDS_PACKAGE = pytest.mark.skipif(PACKAGE is None, reason="comfyui-workflow-templates-json is not installed")
# The nine templates of version 0.1.123, and what they offer to download (name, folder of ComfyUI's models).
COUNT = 9
NAMES = {
    "ltx-2.3-22b-dev-fp8.safetensors": "checkpoints", "ltx-2.3-22b-distilled-fp8.safetensors": "checkpoints",
    "gemma_3_12B_it_fp4_mixed.safetensors": "text_encoders",
    "ltx-2.3-spatial-upscaler-x2-1.1.safetensors": "latent_upscale_models",
    "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors": "loras",
    "ltx-2.3-22b-ic-lora-ingredients-0.9.safetensors": "loras", "ltx-2.3-id-lora-talkvid-3k.safetensors": "loras",
    "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors": "loras", "ltx2.3-transition.safetensors": "loras",
    "gemma-3-12b-it-abliterated_lora_rank64_bf16.safetensors": "loras",
    "moge_2_vitl_normal_fp16.safetensors": "geometry_estimation",
}


def downloads(value: object) -> list[dict[str, str]]:
    """What a graph offers to download: entries with a name, an address and a folder, wherever they stand."""
    if isinstance(value, list):
        return [found for each in value for found in downloads(each)]
    if not isinstance(value, dict):
        return []
    own = [value] if {"name", "url", "directory"} <= value.keys() else []
    return own + [found for each in value.values() for found in downloads(each)]


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_knows_each_file(name: str) -> None:
    entry = named(name)
    assert entry is not None and entry.folder == NAMES[name] and named(f"some\\folder/{name.upper()}") == entry


def test_unknown_files_are_unknown() -> None:
    assert named("") is None and named("gemma") is None and named("something-else.safetensors") is None


@NEEDS_PACKAGE
def test_every_file_of_the_templates_is_known() -> None:
    folder = Path(PACKAGE.origin).parent / "templates"
    templates = [path for path in folder.glob("*.json") if not path.name.startswith("index.")
                 and re.search(r"ltx-?_?2\.3", path.read_text(encoding="utf-8"), re.I)
                 and "ltx-2.5" not in path.read_text(encoding="utf-8").lower()]
    assert len(templates) >= COUNT, "the package has another form than this test reads"
    for path in templates:
        for each in downloads(json.loads(path.read_text(encoding="utf-8"))):
            entry = named(each["name"])
            assert entry is not None, f"{path.name} names {each['name']}"
            request = parse(each["url"])
            assert (entry.repo, entry.path, entry.folder) == (request.repo, request.path, each["directory"]), path.name


def _pair(module: str, rank: int, wide: int, tall: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {f"{module}.lora_A.weight": ("BF16", (rank, wide)), f"{module}.lora_B.weight": ("BF16", (tall, rank))}


VIDEO = "diffusion_model.transformer_blocks.{}.attn1.to_q"
SOUND = "diffusion_model.transformer_blocks.{}.audio_attn1.to_q"
GEMMA_LORA = "text_encoders.model.layers.{}.self_attn.q_proj"


def _lora(rank: int, *modules: tuple[str, int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: ref for module, wide, tall in modules for block in range(3)
            for name, ref in _pair(module.format(block), rank, wide, tall).items()}


HEADERS = {  # the beginnings of headers with the true shapes of the 22B model
    "ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors": (
        reduced(131), "lora", "LTX-2.3 LoRA (distilled"),  # all modules, each of its own rank
    "ltx-2.3-22b-ic-lora-ingredients-0.9.safetensors": (_lora(64, (VIDEO, 4096, 4096)), "lora", "IC-LoRA"),
    "ltx-2.3-id-lora-talkvid-3k.safetensors": (
        _lora(32, (VIDEO, 4096, 4096), (SOUND, 2048, 2048)), "lora", "LTX-2 LoRA"),
    "ltx2.3-transition.safetensors": (_lora(32, (VIDEO, 4096, 4096)), "lora", "LTX LoRA"),
    "gemma-3-12b-it-abliterated_lora_rank64_bf16.safetensors": (
        _lora(64, (GEMMA_LORA, 3840, 4096)), "other", "Gemma LoRA (for a prompt enhancer)"),
    "moge_2_vitl_normal_fp16.safetensors": (
        {"encoder.backbone.blocks.0.attn.qkv.weight": ("F16", (3072, 1024)),
         "normal_head.output_block.weight": ("F16", (3, 32)), "points_head.output_block.weight": ("F16", (3, 32))},
        "other", "geometry estimator (MoGe)"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_recognition_knows_each_file(name: str, tmp_path: Path) -> None:
    tensors, kind, words = HEADERS[name]
    metadata = {"reference_downscale_factor": "1"} if "ic-lora" in name else {}
    found = identify(write_sparse(tmp_path / name, tensors, metadata))
    assert found.kind == kind and words in found.sentence, found.sentence
    assert found.usable == (kind == "lora") and (found.usable or found.fix)


def test_names_of_the_catalogue_tell_files_apart() -> None:
    files = [entry.path.rsplit("/", 1)[-1] for entry in CATALOGUE if entry.path]
    assert len(set(files)) == len(files)
