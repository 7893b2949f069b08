"""What files are, as data: tables of tensor names, number formats, LoRA families and leading bytes (spec/09 §5, §6)."""
from __future__ import annotations

from typing import NamedTuple

OFFICIAL_FILE = ("ltx-2.3-22b-dev.safetensors or ltx-2.3-22b-distilled-1.1.safetensors "
                 "of huggingface.co/Lightricks/LTX-2.3")
USE_OFFICIAL = f"Use {OFFICIAL_FILE} (46 GB, folder models/checkpoints)."
USE_GEMMA = ("Use Gemma 3 12B: gemma_3_12B_it.safetensors of huggingface.co/Comfy-Org/ltx-2 (24.4 GB), or the folder "
             "of google/gemma-3-12b-it-qat-q4_0-unquantized, in models/text_encoders.")
USE_UPSCALER = ("Use ltx-2.3-spatial-upscaler-x2-1.1.safetensors of huggingface.co/Lightricks/LTX-2.3 "
                "(1.0 GB, folder models/latent_upscale_models).")
OTHER_MODEL = "Nothing to do: LTX-2.3 does not use this file."
CHECKPOINT = "an LTX-2.3 single-file checkpoint"


class Kind(NamedTuple):
    """One kind of file: all of ``has`` and none of ``lacks`` match some name. The first kind that fits counts.

    ``shape`` is (pattern, dimension, size) of a tensor that must be there; ``part`` is what of LTX-2.3 the file is,
    empty for what LTX-2.3 cannot use.
    """

    name: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    fix: str = USE_OFFICIAL
    part: str = ""
    shape: tuple[str, int, int] | None = None


_WHOLE = r"^(vae|audio_vae|vocoder)\."
_SCALES = r"\.(weight_scale|scale_weight|comfy_quant)$|(^|\.)scaled_fp8$"
_BLOCK_TABLE = r"^transformer_blocks\.0\.scale_shift_table$"
_LORA = (r"[._](lora_[ABab]|lora_up|lora_down|lokr_w[12](_[ab])?|hada_w[12]_[ab]|oft_R|lora[._](up|down))(\.|$)|"
         r"(lora_linear_layer|_lora)\.(up|down)\.|\.diff(_b)?$")

# Patterns are searched in the names, one a line, with and without the prefix of the transformer; see `recognise`:
# the number of every transformer block or layer is 0.
KINDS: tuple[Kind, ...] = (
    Kind("a LoRA", (_LORA,), (r"^(?!.*(lora|lokr|hada|oft_R)).*\.weight$",),
         fix="Give it where a LoRA is asked for, and a checkpoint here.", part="lora"),
    Kind("an LTX-2.5 checkpoint", (r"^duration_head\.",)),
    Kind("an LTX-2.5 checkpoint", (r"^keyframes_abs_pos_embedding",)),
    Kind("an LTX-2.5 checkpoint", (r"^audio_adaln_single\.", r"^transformer_blocks\.0\.ff\.net\.2\.weight$"),
         (r"^transformer_blocks\.0\.ff\.net\.2\.bias$",)),
    Kind("an LTX-2.0 checkpoint", (r"^audio_adaln_single\.", r"^caption_projection\.")),
    Kind("an LTX-2.0 checkpoint", (r"^audio_adaln_single\.",), shape=(_BLOCK_TABLE, 0, 6)),
    Kind("an LTX-2.0 text projection", (r"^text_embedding_projection\.(aggregate_embed\.)?weight$",), (_WHOLE,)),
    Kind("an LTX-2.0 checkpoint", (r"^text_embedding_projection\.aggregate_embed\.",)),
    Kind("an LTX-2.0 text projection", (r"^text_proj_in\.weight$",)),
    Kind("an LTX-Video 0.9 13B checkpoint", (r"^adaln_single\.", r"^caption_projection\."), (r"^audio_adaln_single\.",),
         shape=(r"^patchify_proj\.weight$", 0, 4096)),
    Kind("an LTX-Video 0.9 checkpoint", (r"^adaln_single\.", r"^caption_projection\."), (r"^audio_adaln_single\.",)),
    Kind("an LTX-2.3 checkpoint without audio", (r"^prompt_adaln_single\.",), (r"^audio_adaln_single\.",)),
    Kind("an LTX-2.3 checkpoint with quantised weights", (r"^audio_adaln_single\.", _SCALES, _WHOLE),
         part="checkpoint"),
    Kind("an LTX-2.3 checkpoint with quantised weights", (r"^audio_adaln_single\.", _SCALES), part="transformer"),
    Kind(CHECKPOINT, (r"^model\.diffusion_model\.audio_adaln_single\.", r"^prompt_adaln_single\.", _WHOLE),
         part="checkpoint"),
    Kind("an LTX-2.3 transformer alone", (r"^audio_adaln_single\.", r"^prompt_adaln_single\."), part="transformer"),
    Kind("a diffusers LTX-2.3 transformer", (r"^audio_time_embed\.", r"^prompt_adaln\."), part="transformer"),
    Kind("a diffusers LTX-2.0 transformer", (r"^audio_time_embed\.",)),
    Kind("the vision part of a text encoder (mmproj, GGUF)", (r"^v\.(blk\.0|patch_embd)\.", r"^mm\."),
         fix="Give the GGUF file of the language model; pictures in a prompt need a Gemma with vision inside."),
    Kind("a Gemma 4 or Gemma 3n text encoder", (r"(layer_scalar$|embed_tokens_per_layer|(^|\.)tokenizer_json$)",),
         fix=USE_GEMMA),
    Kind("a Gemma 3 text encoder", (r"layers\.0\.post_feedforward_layernorm\.", r"layers\.0\.self_attn\.q_norm\."),
         fix="Give the Gemma folder where the text encoder is asked for, and a checkpoint here.", part="text_encoder"),
    Kind("LTX-2.3 text connectors alone", (r"^(text_encoders?\.)?(video|audio)_(embeddings_)?connector\.",),
         part="connectors"),
    Kind("a latent upscaler", (r"^post_upsample_res_blocks\.",),
         fix="Give it where an upscaler is asked for, and a checkpoint here.", part="upsampler"),
    Kind("an LTX-2.3 text projection alone",
         (r"^(text_encoders?\.)?(text_embedding_projection\.)?audio_aggregate_embed\.",),
         part="text_projection"),
    Kind("a Gemma 2 text encoder", (r"layers\.0\.post_feedforward_layernorm\.",), fix=USE_GEMMA),
    Kind("another language model (Llama, Qwen, Mistral or the like)", (r"layers\.0\.self_attn\.q_proj\.",
                                                                      r"layers\.0\.mlp\.(gate|up)_proj\."),
         fix=USE_GEMMA),
    Kind("a diffusers LTX-2.3 vocoder", (r"^bwe_generator\.", r"^vocoder\.(conv_in|upsamplers)\."), part="vocoder"),
    Kind("an LTX-2.3 vocoder alone", (r"^bwe_generator\.",), part="vocoder"),
    Kind("an LTX-2.0 audio VAE", (r"^vocoder\.resblocks\.",), (r"^vocoder\.vocoder\.",)),
    Kind("an LTX audio VAE alone", (r"^(audio_vae|vocoder)\.",), part="audio_vae"),
    Kind("an LTX-2.3 video VAE with other channel counts (pruned)", (r"^(.+\.)?decoder\.up_blocks\.8\.",),
         (r"^(.+\.)?encoder\.conv_out\.",)),
    Kind("an LTX video VAE alone", (r"^(.+\.)?decoder\.up_blocks\.8\.", r"per_channel_statistics\."),
         part="video_vae"),
    Kind("a video VAE of LTX-2.0 or LTX-Video 0.9", (r"^(vae\.)?decoder\.up_blocks\.", r"per_channel_statistics\.")),
    Kind("a diffusers LTX-2.3 video VAE", (r"^decoder\.up_blocks\.3\.resnets\.", r"^latents_mean$",
                                           r"^encoder\.conv_in\.conv\."), part="video_vae"),
    Kind("a diffusers video VAE of LTX-2.0 or LTX-Video 0.9", (
        r"^decoder\.up_blocks\.\d+\.resnets\.", r"^latents_mean$", r"^encoder\.conv_in\.conv\.")),
    Kind("a diffusers LTX-2.3 audio VAE", (r"^decoder\.mid\.block_", r"^latents_mean$"), part="audio_vae"),
    Kind("a tiny preview VAE", (r"^decoder\.22\.bias$",), fix="Nothing to do: previews need no file."),
    Kind("a UMT5 text encoder (Wan)", (r"^encoder\.block\.0\.layer\.",), fix=USE_GEMMA,
         shape=(r"^shared\.weight$", 0, 256384)),
    Kind("a T5 text encoder", (r"^encoder\.block\.\d+\.layer\.",), fix=USE_GEMMA),
    Kind("a Wan model", (r"^head\.modulation$", r"^blocks\.0\.cross_attn\."), fix=OTHER_MODEL),
    Kind("a HunyuanVideo model", (r"^txt_in\.individual_token_refiner\.",), fix=OTHER_MODEL),
    Kind("a Flux model", (r"^double_blocks\.0\.img_attn\.",), fix=OTHER_MODEL),
    Kind("a Flux model", (r"^single_transformer_blocks\.0\.",), fix=OTHER_MODEL),
    Kind("a Stable Diffusion 3 model", (r"^joint_blocks\.0\.",), fix=OTHER_MODEL),
    Kind("a Qwen-Image model", (r"^transformer_blocks\.0\.img_mod\.", r"^txt_in\."), fix=OTHER_MODEL),
    Kind("a Z-Image or Lumina model", (r"^(noise|context)_refiner\.",), fix=OTHER_MODEL),
    Kind("an SDXL checkpoint", (r"^input_blocks\.", r"^label_emb\.0\.0\.|^conditioner\.embedders\.1\."),
         fix=OTHER_MODEL),
    Kind("an SDXL checkpoint", (r"^add_embedding\.linear_1\.", r"^down_blocks\."), fix=OTHER_MODEL),
    Kind("a ControlNet", (r"^(control_model\.|input_hint_block\.|controlnet_(cond_embedding|down_blocks)\.)",),
         fix=OTHER_MODEL),
    Kind("a Stable Diffusion 1 or 2 checkpoint", (r"^(input_blocks|down_blocks\.\d+\.resnets)\.",), fix=OTHER_MODEL),
    Kind("an LTX-2.3 audio VAE alone", (
        r"^(.+\.)?(decoder\.up|encoder\.down)\.\d+\.block\.", r"^(.+\.)?per_channel_statistics\."),
         part="audio_vae"),
    Kind("a VAE of an image model (Stable Diffusion, Flux)", (r"^(first_stage_model\.)?decoder\.up\.\d+\.block\.",),
         fix=OTHER_MODEL),
    Kind("a VAE of an image model (Stable Diffusion, Flux)", (r"^decoder\.up_blocks\.\d+\.resnets\.",),
         fix=OTHER_MODEL),
    Kind("a Wan VAE", (r"^decoder\.upsamples\.0\.",), fix=OTHER_MODEL),
    Kind("a CLIP text encoder", (r"(^|\.)text_model\.encoder\.layers\.",), fix=USE_GEMMA),
    Kind("a CLIP vision model", (r"^vision_model\.encoder\.layers\.",), fix=OTHER_MODEL),
    Kind("a geometry estimator (MoGe): depth and normals", (r"^(points|normal|mask)_head\.", r"^(encoder|backbone)\."),
         fix=OTHER_MODEL),
    Kind("an image upscaler (ESRGAN)", (r"^(model\.\d+\.sub\.|conv_first\.|body\.0\.rdb)",), fix=USE_UPSCALER),
    Kind("a textual inversion embedding", (r"^(emb_params|clip_[gl])$",), fix=OTHER_MODEL),
)
UNKNOWN = Kind("a safetensors file of no known kind")

# What of LTX-2.3 a file is -> the word for it in a sentence.
WORDS = {"checkpoint": "monolith", "transformer": "transformer", "connectors": "text connectors",
         "text_projection": "text projection", "video_vae": "video VAE", "audio_vae": "audio VAE with vocoder",
         "vocoder": "vocoder", "upsampler": "latent upscaler"}

# Folder of a diffusers pipeline -> the components in it.
DIFFUSERS_FOLDERS = {
    "transformer": ("transformer",), "connectors": ("connectors", "text_projection"),
    "vae": ("video_encoder", "video_decoder"), "audio_vae": ("audio_encoder", "audio_decoder"),
    "vocoder": ("vocoder",), "text_encoder": ("text_encoder",), "latent_upsampler": (),
}

# What must agree between files that are used together: name -> (pattern of a bare tensor name, dimension).
FITS = {
    "width": ((r"^(patchify_proj|proj_in)\.weight$", 0), (r"(^|\.)video_(aggregate_embed|text_proj_in)\.weight$", 0)),
    "text_features": ((r"(^|\.)video_(aggregate_embed|text_proj_in)\.weight$", 1),),
    "latent_channels": ((r"^(vae\.)?decoder\.conv_in\.conv\.weight$", 1), (r"^initial_conv\.weight$", 1),
                        (r"^(patchify_proj|proj_in)\.weight$", 1)),
}

# (layers, width) of Gemma 3 -> name; only the 12B one is the text encoder of LTX-2.3.
GEMMA = "Gemma 3 12B"
GEMMAS = {(18, 640): "Gemma 3 270M", (26, 1152): "Gemma 3 1B", (34, 2560): "Gemma 3 4B", (48, 3840): GEMMA,
          (62, 5376): "Gemma 3 27B"}

# Number formats: label, and patterns on "name DTYPE" lines that must all match. Whether one can be read, `match` says.
PRECISIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bitsandbytes nf4", (r"\.(absmax|quant_state\.bitsandbytes__\w+) ",)),
    ("quanto", (r"\.weight\._data ",)),
    ("nunchaku int4", (r"\.wscales ",)),
    ("MLX", (r"\.biases ", r"\.scales ", r"\.weight U32$")),
    ("GPTQ or AWQ int4", (r"\.qweight ", r"\.qzeros ")),
    ("int4 ConvRot", (r"\.weight_s_rel ",)),
    ("NVFP4", (r"\.weight_scale_2 F32$", r"\.weight U8$")),
    ("MXFP8", (r"\.weight F8_E4M3$", r"\.weight_scale (U8|F8_E8M0)$")),
    ("int8", (r"\.weight I8$", r"\.weight_scale F32$")),
    ("fp8 scaled", (r"\.weight F8_E\w+$", r"\.(weight_scale|scale_weight) ")),
    ("fp8 e4m3", (r"\.weight F8_E4M3$",)),
    ("fp8 e5m2", (r"\.weight F8_E5M2$",)),
)
GGUF_MODELS = ("ltxv", "pig", "cow", "", "gemma3")  # general.architecture of files for LTX-2.3 (spec/09 §2.8)
# Format of a packed weight (`packed.formats`) -> its label.
PACKED = {"fp8": "fp8 scaled", "mxfp8": "MXFP8", "nvfp4": "NVFP4", "int8": "int8", "int4": "int4 ConvRot",
          "w4a8": "w4a8 ConvRot", "awq": "int4 AWQ"}
PLAIN = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


class LoraFamily(NamedTuple):
    """Which model a LoRA belongs to: the pattern is searched in its names, every block being block 0."""

    name: str
    pattern: str
    fits: bool = False  # can be applied to the transformer of LTX-2.3


LORA_FAMILIES: tuple[LoraFamily, ...] = (
    LoraFamily("an LTX-2.3 LoRA", r"prompt_adaln|to_gate_logits|(video|audio)_aggregate_embed", True),
    LoraFamily("an LTX-2.0 LoRA", r"(^|\.)(caption_projection|aggregate_embed|text_proj_in)\.", True),
    LoraFamily("an LTX-2 LoRA (2.3 or 2.0)",
               r"audio_(attn1|attn2|ff|to_video|adaln|patchify|embeddings)|video_(to_audio|embeddings)|av_ca_|"
               r"av_cross_attn", True),
    LoraFamily("a HunyuanVideo LoRA", r"individual_token_refiner|^(?!lora_unet).*\bdouble_blocks\.0\.(img|txt)_attn_"),
    LoraFamily("a Flux LoRA", r"double_blocks[._]|single_transformer_blocks[._]|single_blocks[._]"),
    LoraFamily("a Stable Diffusion 3 LoRA", r"joint_(transformer_)?blocks[._]"),
    LoraFamily("a Qwen-Image LoRA", r"transformer_blocks[._]0[._](attn[._]add_[qkv]_proj|img_m|txt_m)"),
    LoraFamily("a Wan LoRA", r"(^|\.|_)(?<!transformer_)blocks[._]0[._](self_attn|cross_attn|ffn)[._]"),
    LoraFamily("a Gemma LoRA (for a prompt enhancer)",
               r"layers[._]0[._](self_attn[._][qkvo]_proj|mlp[._](gate|up|down)_proj)"),
    LoraFamily("an SDXL LoRA", r"^lora_te2_|text_encoder_2[._]|add_embedding"),
    LoraFamily("a Stable Diffusion LoRA", r"(^|[._])(down|up|mid|input|output|middle)_blocks?[._]"),
    LoraFamily("an LTX LoRA (video modules only: 2.3, 2.0 or LTX-Video 13B)",
               r"transformer_blocks[._]0[._](attn[12]|ff)[._]", True),
)
LORA_UNKNOWN = LoraFamily("a LoRA of no known model", "")
# Width of the text features in SD's cross attention -> family.
SD_WIDTHS = {768: "a Stable Diffusion 1.5 LoRA", 1024: "a Stable Diffusion 2 LoRA", 2048: "an SDXL LoRA"}
LTX_VIDEO_2B = "an LTX-Video 2B LoRA"

# (dialect, pattern of its names); the first that fits counts.
LORA_DIALECTS: tuple[tuple[str, str], ...] = (
    ("OFT", r"\.oft_R\."), ("LoKr", r"\.lokr_w[12]"), ("LoHa", r"\.hada_w[12]"),
    ("PEFT", r"^base_model\.model\.|\.lora_[AB]\.default\."),
    ("diffusers", r"^(transformer|connectors)\..*lora"),
    ("musubi", r"^lora_unet_model_"), ("kohya", r"^lora_(unet|te\d?)_"),
    ("official", r"^(model\.)?diffusion_model\..*lora_[AB]\.weight|^text_embedding_projection\."),
    ("llama.cpp", r"\.weight\.lora_[ab]$"), ("full difference", r"\.diff(_b)?$"),
)
