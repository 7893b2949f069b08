"""The config.json of every folder of a diffusers pipeline, from an overlay's configurations (spec/01 §3)."""
from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Any

from ...config import (
    REGISTERS,
    VIDEO_SCALE,
    AudioVAEConfig,
    ConnectorConfig,
    GeneratorConfig,
    StreamConfig,
    TextProjectionConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from ...errors import ExportError
from ..manifest import Overlay

Config = dict[str, Any]

VERSION = "0.42.0"  # of diffusers, the oldest that the tests load the files with
_KINDS = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}
_DESCRIBED = ("transformer", "connectors", "text_projection", "video_encoder", "video_decoder", "audio_decoder",
              "vocoder")
_UNFIT = "Export as monolith or split instead."


def component_configs(overlay: Overlay) -> dict[str, Config]:
    """Folder -> config.json of the models of the pipeline.

    Raises:
        ExportError: sizes that diffusers has no words for (no released model has them).
    """
    configs = {name: overlay.require(name).config for name in _DESCRIBED}
    audio = AudioVAEConfig.from_dict(configs["audio_decoder"])
    return {
        "transformer": _transformer(TransformerConfig.from_dict(configs["transformer"]), audio,
                                    configs["transformer"]["caption_channels"]),
        "connectors": _connectors(configs["connectors"], TextProjectionConfig(**configs["text_projection"])),
        "vae": _video_vae(VideoVAEConfig.from_dict(configs["video_encoder"]),
                          VideoVAEConfig.from_dict(configs["video_decoder"])),
        "audio_vae": _audio_vae(audio),
        "vocoder": _vocoder(VocoderConfig.from_dict(configs["vocoder"]), audio),
    }


def _model(name: str, **values: object) -> Config:
    return {"_class_name": name, "_diffusers_version": VERSION, **values}


def _transformer(config: TransformerConfig, audio: AudioVAEConfig, caption_channels: int) -> Config:
    def stream(prefix: str, part: StreamConfig) -> Config:
        return {prefix + "in_channels": part.in_channels, prefix + "out_channels": part.out_channels,
                prefix + "num_attention_heads": part.heads, prefix + "attention_head_dim": part.head_dim,
                prefix + "cross_attention_dim": part.width, prefix + "pos_embed_max_pos": part.max_pos[0],
                prefix + "patch_size": 1, prefix + "patch_size_t": 1,
                prefix + "gated_attn": True, prefix + "cross_attn_mod": True}

    seconds, height, width = config.video.max_pos
    return _model(
        "LTX2VideoTransformer3DModel", **stream("", config.video), **stream("audio_", config.audio),
        base_height=height, base_width=width, vae_scale_factors=list(VIDEO_SCALE),
        audio_sampling_rate=audio.sampling_rate, audio_hop_length=audio.hop_length,
        audio_scale_factor=_mel_scale(audio), num_layers=config.layers, activation_fn="gelu-approximate",
        qk_norm="rms_norm_across_heads", norm_elementwise_affine=False, norm_eps=config.norm_eps,
        caption_channels=caption_channels, attention_bias=True, attention_out_bias=True,
        rope_theta=config.rope_theta, rope_double_precision=True, rope_type="split", causal_offset=1,
        timestep_scale_multiplier=config.timestep_scale,
        cross_attn_timestep_scale_multiplier=config.av_gate_timestep_scale, use_prompt_embeddings=False,
        perturbed_attn=True, ff_bias=True, audio_ff_bias=True, use_prompt_adaln_single=True)


def _connectors(transformer: Mapping[str, Any], projection: TextProjectionConfig) -> Config:
    values: Config = {}
    for name in ("video", "audio"):
        part = ConnectorConfig.from_dict(transformer, audio=name == "audio")
        values |= {f"{name}_connector_num_attention_heads": part.heads,
                   f"{name}_connector_attention_head_dim": part.head_dim, f"{name}_connector_num_layers": part.layers,
                   f"{name}_connector_num_learnable_registers": REGISTERS, f"{name}_gated_attn": True,
                   "connector_rope_base_seq_len": part.max_pos[0], "rope_theta": part.rope_theta}
    return _model(
        "LTX2TextConnectors", **values, caption_channels=projection.caption_channels,
        text_proj_in_factor=projection.in_features // projection.caption_channels,
        video_hidden_dim=projection.video_features, audio_hidden_dim=projection.audio_features,
        per_modality_projections=True, proj_bias=True, rope_double_precision=True, rope_type="split",
        causal_temporal_positioning=False)


def _plan(blocks: tuple[tuple[str, int], ...]) -> tuple[list[int], list[str], list[int]]:
    """Layers of each residual stack, kind and multiplier of each step between them, from the pixel side."""
    stacks, steps = blocks[::2], blocks[1::2]
    stack_names, step_names = set(dict(stacks)), set(dict(steps))
    if len(blocks) % 2 == 0 or stack_names != {"res_x"} or "res_x" in step_names:
        raise ExportError(f"the video VAE has the blocks {', '.join(name for name, _ in blocks)}",
                          "res_x and a change of resolution in turn: diffusers has no other plan", _UNFIT)
    kinds, multipliers = [], []
    for name, multiplier in steps:
        kinds.append(_KINDS[name.split("_")[1]])
        multipliers.append(multiplier)
    return [layers for _, layers in stacks], kinds, multipliers


def _widths(base: int, multipliers: list[int]) -> list[int]:
    return list(accumulate(multipliers, mul, initial=base))[1:]


def _video_vae(encoder: VideoVAEConfig, decoder: VideoVAEConfig) -> Config:
    if encoder.encoder_base_channels != encoder.latent_channels:
        raise ExportError(f"the video VAE begins with {encoder.encoder_base_channels} channels for latents of "
                          f"{encoder.latent_channels}", "equal numbers: diffusers has one for both", _UNFIT)
    layers, kinds, multipliers = _plan(encoder.encoder_blocks)
    in_space = len(kinds) - kinds.count("temporal")
    in_time = len(kinds) - kinds.count("spatial")
    decoder_layers, decoder_kinds, factors = _plan(decoder.decoder_blocks)
    return _model(
        "AutoencoderKLLTX2Video", in_channels=3, out_channels=3, latent_channels=encoder.latent_channels,
        block_out_channels=_widths(encoder.encoder_base_channels, multipliers),
        down_block_types=["LTX2VideoDownBlock3D"] * len(kinds), layers_per_block=layers,
        spatio_temporal_scaling=[True] * len(kinds), downsample_type=kinds,
        decoder_block_out_channels=_widths(decoder.decoder_base_channels, factors),
        decoder_layers_per_block=decoder_layers, decoder_spatio_temporal_scaling=[True] * len(factors),
        decoder_inject_noise=[False] * len(decoder_layers), upsample_type=decoder_kinds[::-1],
        upsample_residual=[False] * len(factors), upsample_factor=factors, timestep_conditioning=False,
        patch_size=encoder.patch_size, patch_size_t=1, resnet_norm_eps=1e-6, scaling_factor=1.0, encoder_causal=True,
        decoder_causal=False, encoder_spatial_padding_mode="zeros", decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=encoder.patch_size * 2 ** in_space,
        temporal_compression_ratio=2 ** in_time)


def _mel_scale(config: AudioVAEConfig) -> int:
    return config.mel_bins // config.latent_bins


def _audio_vae(config: AudioVAEConfig) -> Config:
    if config.base_channels != config.latent_channels * config.latent_bins:
        raise ExportError(f"the audio VAE has {config.base_channels} channels and statistics for "
                          f"{config.latent_channels * config.latent_bins}", "equal numbers: diffusers has "
                                                                            "one for both",
                          _UNFIT)
    return _model(
        "AutoencoderKLLTX2Audio", base_channels=config.base_channels, output_channels=config.out_channels,
        ch_mult=list(config.channel_multipliers), num_res_blocks=config.res_blocks, attn_resolutions=None,
        in_channels=config.in_channels, resolution=256, latent_channels=config.latent_channels, norm_type="pixel",
        causality_axis="height", dropout=0.0, mid_block_add_attention=False, sample_rate=config.sampling_rate,
        mel_hop_length=config.hop_length, is_causal=True, mel_bins=config.mel_bins, double_z=True)


def _vocoder(config: VocoderConfig, audio: AudioVAEConfig) -> Config:
    def generator(prefix: str, part: GeneratorConfig, bins: int) -> Config:
        return {prefix + "in_channels": 2 * bins, prefix + "hidden_channels": part.initial_channels,
                prefix + "out_channels": 2, prefix + "upsample_factors": list(part.rates),
                prefix + "upsample_kernel_sizes": list(part.kernels),
                prefix + "resnet_kernel_sizes": list(part.res_kernels),
                prefix + "resnet_dilations": list(map(list, part.dilations)),
                prefix + "act_fn": "snakebeta", prefix + "antialias": True, prefix + "antialias_ratio": 2,
                prefix + "antialias_kernel_size": 12, prefix + "final_bias": False}

    # The official code clamps between the two stages; diffusers does so only when told (spec/05 §5).
    return _model(
        "LTX2VocoderWithBWE", **generator("", config.vocoder, audio.mel_bins), final_act_fn="clamp",
        **generator("bwe_", config.bwe, config.mel_bins), bwe_final_act_fn=None, filter_length=config.n_fft,
        window_length=config.n_fft, hop_length=config.hop_length, num_mel_channels=config.mel_bins,
        input_sampling_rate=config.input_rate, output_sampling_rate=config.output_rate)


def upsampler_config(config: Mapping[str, Any]) -> Config:
    """config.json of a latent upscaler."""
    values = UpsamplerConfig.from_dict(config)
    return _model("LTX2LatentUpsamplerModel", in_channels=values.in_channels, mid_channels=values.mid_channels,
                  num_blocks_per_stage=values.blocks_per_stage, dims=3, spatial_upsample=values.spatial,
                  temporal_upsample=values.temporal, rational_spatial_scale=values.spatial_scale,
                  use_rational_resampler=values.rational)


def scheduler_config(variant: str) -> Config:
    """The schedule: shifted by the number of tokens for dev weights, taken as given for distilled ones."""
    terminal = {"dev": 0.1}.get(variant)
    return _model(
        "FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=1.0,
        use_dynamic_shifting=variant == "dev", base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
        max_image_seq_len=4096, invert_sigmas=False, shift_terminal=terminal, time_shift_type="exponential",
        stochastic_sampling=False, use_beta_sigmas=False, use_exponential_sigmas=False, use_karras_sigmas=False)
