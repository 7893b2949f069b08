"""Runs in ComfyUI's source tree: names and shapes of a core model's files, as JSON, from modules without memory.

    python core_layouts.py sdxl|sd15

Sizes are those of the published models (their configurations); the weights will be random ones.
"""
from __future__ import annotations

import json
import os
import sys

NAME = sys.argv[1]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, os.getcwd())

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.clip_model import CLIPTextModel  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

UNETS = {
    "sdxl": {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
             "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
             "context_dim": 2048, "adm_in_channels": 2816, "num_classes": "sequential",
             "use_linear_in_transformer": True, "num_head_channels": 64},
    "sd15": {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
             "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
             "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8},
}
SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False,
          "use_spatial_transformer": True, "use_temporal_attention": False}
CLIPS = {"l": "comfy/sd1_clip_config.json", "g": "comfy/clip_config_bigg.json"}
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
       "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def shapes(module: torch.nn.Module) -> dict[str, list]:
    """Name -> ["F16", sizes] of every weight."""
    return {name: ["F16", list(value.shape)] for name, value in module.state_dict().items()}


def clip(which: str) -> dict[str, list]:
    """A text encoder of `CLIPS`."""
    with open(CLIPS[which], encoding="utf-8") as file:
        return shapes(CLIPTextModel(json.load(file), torch.float16, "meta", comfy.ops.disable_weight_init))


def main() -> None:
    """Print file name -> layout."""
    with torch.device("meta"):
        unet = UNetModel(**SHARED, **UNETS[NAME], device="meta", operations=comfy.ops.disable_weight_init)
        files = {"diffusion_models/core.safetensors": shapes(unet), "text_encoders/core_l.safetensors": clip("l"),
                 "vae/core.safetensors": shapes(AutoencoderKL(embed_dim=4, ddconfig=VAE))}
        if NAME == "sdxl":
            files["text_encoders/core_g.safetensors"] = clip("g")
    print(json.dumps(files))


main()
