"""The prompts: our shipped text_to_video, and a picture by a core model."""
from __future__ import annotations

import json

from tests.host.graphs import WORKFLOWS, with_values
from tools.client import Graph

from .files import Models

LATENT = "100"


def video(models: Models, seed: int, checkpoint: str = "", **values: object) -> Graph:
    """text_to_video; the video latent is saved too, so that runs can be compared bit for bit."""
    graph = json.loads((WORKFLOWS / "api" / "text_to_video.json").read_text(encoding="utf-8"))
    sampler = next(key for key, node in graph.items() if node["class_type"] == "LTX23Sampler")
    graph[LATENT] = {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "latent"}}
    asked = {"checkpoint": checkpoint or models.dev, "text_encoder": "gemma", "upsampler": "none",
             "distilled_lora": "none", "width": models.width, "height": models.height, "frames": models.frames,
             "steps": models.steps, "seed": seed, "recipe": "one_stage"}
    return with_values(graph, **(asked | values))


def picture(models: Models, seed: int) -> Graph:
    """A picture by the core's own nodes."""
    text = {"clip_name": "core_l.safetensors", "type": "stable_diffusion"}
    loader = "CLIPLoader"
    if models.core == "sdxl":
        loader = "DualCLIPLoader"
        text = {"clip_name1": "core_l.safetensors", "clip_name2": "core_g.safetensors", "type": "sdxl"}
    nodes = {
        "1": ("UNETLoader", {"unet_name": "core.safetensors", "weight_dtype": "default"}),
        "2": (loader, text),
        "3": ("VAELoader", {"vae_name": "core.safetensors"}),
        "4": ("CLIPTextEncode", {"clip": ["2", 0], "text": "a boat on a lake"}),
        "5": ("EmptyLatentImage", {"width": models.image, "height": models.image, "batch_size": 1}),
        "6": ("KSampler", {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0],
                           "seed": seed, "steps": models.image_steps, "cfg": 4.0, "sampler_name": "euler",
                           "scheduler": "normal", "denoise": 1.0}),
        "7": ("VAEDecode", {"samples": ["6", 0], "vae": ["3", 0]}),
        "8": ("SaveImage", {"images": ["7", 0], "filename_prefix": "core"}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
