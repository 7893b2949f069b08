"""The config.json of a diffusers component as the part of ``config`` that the official file has (spec/01 §3).

Values that diffusers has no word for are those of the 22B model: they are the same in every LTX-2.3 model.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from .builtin import builtin_config

Config = dict[str, Any]


def _same(*names: str) -> dict[str, str]:
    """Names that are the same on both sides."""
    return dict(zip(names, names, strict=True))


# diffusers' name -> the official one, of `config.transformer`.
_TRANSFORMER = _same(
    "in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "cross_attention_dim",
    "num_layers", "caption_channels", "norm_eps", "activation_fn", "attention_bias", "norm_elementwise_affine",
    "timestep_scale_multiplier", "audio_in_channels", "audio_out_channels", "audio_num_attention_heads",
    "audio_attention_head_dim", "audio_cross_attention_dim", "rope_type", "ff_bias", "audio_ff_bias",
    "use_prompt_adaln_single", "use_keyframes_abs_pos_embedding")
_TRANSFORMER |= {"rope_theta": "positional_embedding_theta", "gated_attn": "apply_gated_attention",
                 "cross_attn_mod": "cross_attention_adaln",
                 "cross_attn_timestep_scale_multiplier": "av_ca_timestep_scale_multiplier"}
_CONNECTORS = {
    "caption_channels": "caption_channels",
    "rope_theta": "positional_embedding_theta",
    "rope_type": "rope_type",
    "video_connector_num_attention_heads": "connector_num_attention_heads",
    "video_connector_attention_head_dim": "connector_attention_head_dim",
    "video_connector_num_layers": "connector_num_layers",
    "audio_connector_num_layers": "audio_connector_num_layers",
    "audio_connector_num_attention_heads": "audio_connector_num_attention_heads",
    "audio_connector_attention_head_dim": "audio_connector_attention_head_dim",
    "video_connector_num_learnable_registers": "connector_num_learnable_registers",
    "video_gated_attn": "connector_apply_gated_attention"}
_AUDIO = _same("in_channels", "ch_mult", "num_res_blocks", "resolution", "norm_type", "causality_axis",
               "mid_block_add_attention", "mel_bins", "double_z", "dropout")
_AUDIO |= {"base_channels": "ch", "output_channels": "out_ch", "latent_channels": "z_channels"}
_VAE = _same("latent_channels", "patch_size", "in_channels", "out_channels", "timestep_conditioning",
             "scaling_factor")
_GENERATOR = {"hidden_channels": "upsample_initial_channel", "upsample_kernel_sizes": "upsample_kernel_sizes",
              "upsample_factors": "upsample_rates", "resnet_kernel_sizes": "resblock_kernel_sizes",
              "resnet_dilations": "resblock_dilation_sizes", "act_fn": "activation",
              "final_bias": "use_bias_at_final"}
_BWE = {"filter_length": "n_fft", "window_length": "win_size", "hop_length": "hop_length",
        "num_mel_channels": "num_mels", "input_sampling_rate": "input_sampling_rate",
        "output_sampling_rate": "output_sampling_rate"}
_KINDS = {"spatial": "space", "temporal": "time", "spatiotemporal": "all"}


def _renamed(config: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> Config:
    return {ours: config[prefix + theirs] for theirs, ours in names.items() if prefix + theirs in config}


def _transformer(config: Mapping[str, Any]) -> Config:
    part = builtin_config("transformer") | _renamed(config, _TRANSFORMER)
    seconds, height, width = part["positional_embedding_max_pos"]
    part["positional_embedding_max_pos"] = [
        config.get("pos_embed_max_pos", seconds),
        config.get("base_height", height),
        config.get("base_width", width),
    ]
    if "audio_pos_embed_max_pos" in config:
        part["audio_positional_embedding_max_pos"] = [config["audio_pos_embed_max_pos"]]
    part["frequencies_precision"] = "float64"
    if not config.get("rope_double_precision", True):
        part["frequencies_precision"] = "float32"
    for theirs in ("gated_attn", "cross_attn_mod"):
        ours = _TRANSFORMER[theirs]
        part[ours] = part[ours] and config.get("audio_" + theirs, True)
    part["causal_temporal_positioning"] = bool(config.get("causal_offset", 1))
    return part


def _connectors(config: Mapping[str, Any]) -> Config:
    part = builtin_config("transformer") | _renamed(config, _CONNECTORS)
    if "connector_rope_base_seq_len" in config:
        part["connector_positional_embedding_max_pos"] = [config["connector_rope_base_seq_len"]]
    return part


def _vae(config: Mapping[str, Any]) -> Config:
    """Widths become multipliers; diffusers lists the kinds of the decoder's steps from the latent side."""
    part = builtin_config("vae") | _renamed(config, _VAE)
    part["causal_decoder"] = config.get("decoder_causal", False)
    part["spatial_padding_mode"] = config.get("decoder_spatial_padding_mode", "zeros")
    widths = [config["latent_channels"], *config["block_out_channels"]]
    ratios = [after // before for before, after in zip(widths, widths[1:], strict=False)]
    part["encoder_base_channels"] = widths[0]
    part["encoder_blocks"] = _blocks(config["layers_per_block"], config["downsample_type"], ratios, "_res")
    factors = list(config["upsample_factor"])
    part["decoder_base_channels"] = config["decoder_block_out_channels"][0] // factors[0]
    kinds = list(reversed(config["upsample_type"]))
    suffix = ""
    if any(_list(config.get("upsample_residual", False))):
        suffix = "_res"
    part["decoder_blocks"] = _blocks(config["decoder_layers_per_block"], kinds, factors, suffix)
    return part


def _list(value: object) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    return [value]


def _blocks(layers: list[int], kinds: list[str], multipliers: list[int], suffix: str) -> list[list[Any]]:
    blocks: list[list[Any]] = [["res_x", {"num_layers": layers[0]}]]
    for kind, multiplier, count in zip(kinds, multipliers, layers[1:], strict=True):
        blocks.append([f"compress_{_KINDS[kind]}{suffix}", {"multiplier": multiplier}])
        blocks.append(["res_x", {"num_layers": count}])
    return blocks


def _audio_vae(config: Mapping[str, Any]) -> Config:
    part = builtin_config("audio_vae")
    part["model"]["params"]["ddconfig"] |= _renamed(config, _AUDIO)
    part["model"]["params"]["ddconfig"]["attn_resolutions"] = config.get("attn_resolutions") or []
    part["model"]["params"]["sampling_rate"] = config.get("sample_rate", 16000)
    part["preprocessing"]["stft"]["hop_length"] = config.get("mel_hop_length", 160)
    return part


def _vocoder(config: Mapping[str, Any]) -> Config:
    part = builtin_config("vocoder")
    part["vocoder"] |= _renamed(config, _GENERATOR)
    part["bwe"] |= _renamed(config, _GENERATOR, "bwe_") | _renamed(config, _BWE)
    return part


# Folder of a diffusers pipeline -> (part of the official config, reader).
_PARTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Config]]] = {
    "transformer": ("transformer", _transformer),
    "connectors": ("transformer", _connectors),
    "vae": ("vae", _vae),
    "audio_vae": ("audio_vae", _audio_vae),
    "vocoder": ("vocoder", _vocoder),
}
_OFFICIAL = "positional_embedding_max_pos"  # sglang puts the official names into the transformer's config.json


def official_config(folder: str, config: Mapping[str, Any]) -> dict[str, Config]:
    """The official parts that a config.json says.

    Args:
        folder: what the component's folder is called in a diffusers pipeline.
        config: content of its config.json.

    Returns:
        part -> configuration; empty where config.json is not that of such a component.
    """
    if folder == "transformer" and _OFFICIAL in config:
        return {"transformer": builtin_config("transformer") | deepcopy(dict(config))}
    part, read = _PARTS[folder]
    if not config:
        return {}
    try:
        return {part: read(config)}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return {}
