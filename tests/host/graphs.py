"""The shipped workflows with small sizes, in API format. Their Overlay node finds the tiny model by itself."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.host.client import Graph
from tools import workflow_graphs

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json"))
CHECKPOINT, GEMMA = "ltx-2.3-tiny.safetensors", "gemma"
UPSCALER, LORA = "ltx-2.3-tiny-spatial-upscaler-x2.safetensors", "ltx-2.3-tiny-distilled-lora.safetensors"
SMALL = {"width": 96, "height": 64, "frames": 17, "steps": 3}


# What a workflow needs beside the small size: stages of 64, the one LoRA there is, clips of the length of example.mp4.
TWO = {"width": 128, "upsampler": UPSCALER, "distilled_lora": LORA}
OWN: dict[str, dict[str, Any]] = {
    "two_stage": TWO, "two_stage_apart": TWO, "hq": TWO, "distilled": {**TWO, "steps": 0},
    "ic_lora": {**TWO, "steps": 0, "lora": LORA}, "extend": {"frames": 33}, "retake": {"start": 0.2, "end": 0.5},
    "keyframes": {"at_frames": "0, 8"},
    "long_video": {"frames": 33, "window": 17, "overlap": 8, "steps": 1},
    "enhance_prompt": {"max_tokens": 8},
}
# Steps that the (last) sampler reports, where they are not SMALL's: both stages, or both windows.
STEPS = {"two_stage": 6, "hq": 6, "distilled": 11, "ic_lora": 11, "long_video": 2}
MEDIA = ("example.png", "example.mp4", "example.wav")  # what the workflows load; tools/example_files.py makes them


def ui_file(name: str) -> Path:
    """The file of a shipped workflow for the page."""
    return workflow_graphs.ui_file(WORKFLOWS, name)


def values_of(name: str) -> dict[str, Any]:
    """The values that make a shipped workflow small."""
    return SMALL | OWN.get(name, {})


def steps_of(name: str) -> int:
    """Steps that the sampler of a small workflow reports; of two samplers the second."""
    return STEPS.get(name, SMALL["steps"])


def shape_of(name: str) -> tuple[int, int, int]:
    """Frames, height and width of what a small workflow makes."""
    values = values_of(name)
    return values["frames"], values["height"], values["width"]


def workflow(name: str, prefix: str, **values: Any) -> Graph:
    """A shipped workflow, small; `values` go to every node that has an input of that name."""
    graph = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return with_values(graph, **{**values_of(name), "filename_prefix": prefix, **values})


def with_values(graph: Graph, **values: Any) -> Graph:
    """A copy of a graph with some inputs changed wherever they occur as constants."""
    graph = json.loads(json.dumps(graph))
    for node in graph.values():
        constants = {key for key, value in node["inputs"].items() if not isinstance(value, list)}
        node["inputs"] |= {key: value for key, value in values.items() if key in constants}
    return graph


def node_id(graph: Graph, class_type: str) -> str:
    """The id of the node of a class; of several the last."""
    return [key for key, node in graph.items() if node["class_type"] == class_type][-1]

