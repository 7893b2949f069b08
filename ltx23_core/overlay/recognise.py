"""Names what a safetensors file is by its tensor names alone (spec/09 §6), for errors that help."""
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

OFFICIAL_FILE = ("ltx-2.3-22b-dev.safetensors or ltx-2.3-22b-distilled-1.1.safetensors "
                 "of huggingface.co/Lightricks/LTX-2.3")
_USE_OFFICIAL = f"Use {OFFICIAL_FILE} (46 GB, folder models/checkpoints)."


class Kind(NamedTuple):
    """One kind of file: all of ``has`` and none of ``lacks`` match some name. The first kind that fits counts."""

    name: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    fix: str = _USE_OFFICIAL


# Patterns are searched in the names, one a line, with and without the prefix of the transformer; see `recognise`:
# every block number is 0.
KINDS: tuple[Kind, ...] = (
    Kind("a LoRA", (r"\.(lora_A|lora_B|lora_up|lora_down)(\.|$)",), (r"^(?!.*lora).*\.weight$",),
         fix="Give it where a LoRA is asked for, and a checkpoint here."),
    Kind("an LTX-2.5 checkpoint", (r"^duration_head\.",)),
    Kind("an LTX-2.5 checkpoint", (r"^keyframes_abs_pos_embedding",)),
    Kind("an LTX-2.5 checkpoint", (r"^audio_adaln_single\.", r"^transformer_blocks\.0\.ff\.net\.2\.weight$"),
         (r"^transformer_blocks\.0\.ff\.net\.2\.bias$",)),
    Kind("an LTX-2.0 checkpoint", (r"^audio_adaln_single\.", r"^caption_projection\.")),
    Kind("an LTX-2.0 checkpoint", (r"^text_embedding_projection\.aggregate_embed\.",)),
    Kind("an LTX-Video 0.9 checkpoint", (r"^adaln_single\.", r"^caption_projection\."), (r"^audio_adaln_single\.",)),
    Kind("an LTX-2.3 checkpoint without audio", (r"^prompt_adaln_single\.",), (r"^audio_adaln_single\.",)),
    Kind("an LTX-2.3 checkpoint with quantised weights",
         (r"^audio_adaln_single\.", r"\.(weight_scale|scale_weight|comfy_quant)$|(^|\.)scaled_fp8$")),
    Kind("an LTX-2.3 single-file checkpoint",
         (r"^model\.diffusion_model\.audio_adaln_single\.", r"^prompt_adaln_single\.", r"^(vae|audio_vae|vocoder)\.")),
    Kind("an LTX-2.3 transformer alone", (r"^audio_adaln_single\.", r"^prompt_adaln_single\.")),
    Kind("a diffusers LTX-2 transformer", (r"^audio_time_embed\.",)),
    Kind("a latent upscaler", (r"^post_upsample_res_blocks\.",),
         fix="Give it where an upscaler is asked for, and a checkpoint here."),
    Kind("an LTX-2.3 text projection alone", (r"^text_embedding_projection\.audio_aggregate_embed\.",)),
    Kind("a Gemma 3 text encoder", (r"layers\.0\.post_feedforward_layernorm\.", r"layers\.0\.self_attn\.q_norm\."),
         fix="Give the Gemma folder where the text encoder is asked for, and a checkpoint here."),
    Kind("an LTX audio VAE alone", (r"^(audio_vae|vocoder)\.",)),
    Kind("an LTX video VAE alone", (r"^(vae\.)?decoder\.up_blocks\.", r"per_channel_statistics\.")),
    Kind("a tiny preview VAE", (r"^decoder\.22\.bias$",)),
    Kind("a T5 text encoder", (r"^encoder\.block\.\d+\.layer\.",)),
    Kind("a Wan model", (r"^head\.modulation$", r"^blocks\.0\.cross_attn\.")),
    Kind("a HunyuanVideo model", (r"^txt_in\.individual_token_refiner\.",)),
    Kind("a Flux model", (r"^double_blocks\.0\.img_attn\.",)),
    Kind("a Stable Diffusion model", (r"^input_blocks\.",)),
    Kind("a CLIP text encoder", (r"^text_model\.encoder\.layers\.",)),
)
_UNKNOWN = Kind("a safetensors file of no known kind", ())
CHECKPOINT = "an LTX-2.3 single-file checkpoint"


def recognise(names: Iterable[str]) -> Kind:
    """The kind of file that has these tensor names."""
    one_block = re.sub(r"(blocks|layers)\.\d+\.", r"\1.0.", "\n".join(names))  # thousands of names become hundreds
    lines = dict.fromkeys(one_block.split("\n"))
    stripped = (line.removeprefix("model.").removeprefix("diffusion_model.") for line in lines)
    text = "\n".join(dict.fromkeys([*lines, *stripped]))
    return next((kind for kind in KINDS if all(re.search(p, text, re.M) for p in kind.has)
                 and not any(re.search(p, text, re.M) for p in kind.lacks)), _UNKNOWN)
