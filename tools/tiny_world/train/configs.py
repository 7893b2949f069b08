"""Architecture of the tiny model: LTX-2.3's own configuration with small numbers, and the sizes it is trained at.

Everything that is not a width, a depth or a rate is as in the official files (spec/01 §2.1, 04 §1, 05 §1, 06).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FPS = 24.0
SHIFT_TOKENS = 4096          # what the official one-stage schedule assumes, whatever the size (spec/07 §2)
MODEL_VERSION = "2.3.0"
HEADS, HEAD_DIM, AUDIO_HEAD_DIM, LAYERS = 5, 32, 16, 4
WIDTH, AUDIO_WIDTH = HEADS * HEAD_DIM, HEADS * AUDIO_HEAD_DIM
LATENT = 128
GEMMA_WIDTH, GEMMA_LAYERS, VOCABULARY = 64, 3, 1024
LORA_RANK = 8

TRANSFORMER: dict[str, Any] = {
    "_class_name": "AVTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
    "attention_head_dim": HEAD_DIM, "attention_type": "default", "caption_channels": GEMMA_WIDTH,
    "cross_attention_dim": WIDTH, "double_self_attention": False, "dropout": 0.0, "in_channels": LATENT,
    "norm_elementwise_affine": False, "norm_eps": 1e-06, "norm_num_groups": 32, "num_attention_heads": HEADS,
    "num_embeds_ada_norm": 1000, "num_layers": LAYERS, "num_vector_embeds": None, "only_cross_attention": False,
    "cross_attention_norm": True, "out_channels": LATENT, "upcast_attention": False, "use_linear_projection": False,
    "qk_norm": "rms_norm", "standardization_norm": "rms_norm", "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0, "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": 1000.0, "causal_temporal_positioning": True,
    "audio_num_attention_heads": HEADS, "audio_attention_head_dim": AUDIO_HEAD_DIM,
    "use_audio_video_cross_attention": True, "share_ff": False, "audio_out_channels": 128,
    "audio_cross_attention_dim": AUDIO_WIDTH, "audio_positional_embedding_max_pos": [20], "av_cross_ada_norm": True,
    "use_embeddings_connector": True, "connector_attention_head_dim": HEAD_DIM, "connector_num_attention_heads": HEADS,
    "connector_num_layers": 1, "connector_positional_embedding_max_pos": [4096],
    "connector_num_learnable_registers": 128, "connector_norm_output": True, "use_middle_indices_grid": True,
    "apply_gated_attention": True, "connector_apply_gated_attention": True, "caption_projection_first_linear": False,
    "caption_projection_second_linear": False, "caption_proj_input_norm": False,
    "connector_learnable_registers_std": 1, "caption_proj_before_connector": True,
    "audio_connector_attention_head_dim": AUDIO_HEAD_DIM, "audio_connector_num_attention_heads": HEADS,
    "cross_attention_adaln": True, "text_encoder_norm_type": "per_token_rms", "rope_type": "split",
    "frequencies_precision": "float64", "audio_in_channels": 128}

VAE: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": LATENT,
    "encoder_blocks": [["res_x", {"num_layers": 1}], ["compress_space_res", {"multiplier": 2}],
                       ["res_x", {"num_layers": 2}], ["compress_time_res", {"multiplier": 1}],
                       ["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 2}],
                       ["res_x", {"num_layers": 1}], ["compress_all_res", {"multiplier": 1}],
                       ["res_x", {"num_layers": 1}]],
    "decoder_blocks": [["res_x", {"num_layers": 2}], ["compress_space", {"multiplier": 2}],
                       ["res_x", {"num_layers": 2}], ["compress_time", {"multiplier": 1}],
                       ["res_x", {"num_layers": 1}], ["compress_all", {"multiplier": 1}],
                       ["res_x", {"num_layers": 1}], ["compress_all", {"multiplier": 2}],
                       ["res_x", {"num_layers": 1}]],
    "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
    "use_quant_conv": False, "causal_decoder": False, "timestep_conditioning": False,
    "normalize_latent_channels": False, "encoder_base_channels": 16, "decoder_base_channels": 16,
    "spatial_padding_mode": "zeros"}

AUDIO_VAE: dict[str, Any] = {
    "model": {"params": {"ddconfig": {
        "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
        "in_channels": 2, "out_ch": 2, "ch": 12, "ch_mult": [1, 2, 4], "num_res_blocks": 1, "attn_resolutions": [],
        "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height"},
        "sampling_rate": 16000}},
    "preprocessing": {"audio": {"sampling_rate": 16000, "max_wav_value": 32768.0, "duration": 5.12, "stereo": True,
                                "causal_padding": 3},
                      "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
                      "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000}}}


def _generator(channels: int, rates: list[int], kernels: list[int], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"upsample_initial_channel": channels, "resblock": "AMP1", "upsample_rates": rates,
            "upsample_kernel_sizes": kernels, "resblock_kernel_sizes": [3, 7], "stereo": True,
            "resblock_dilation_sizes": [[1, 3], [1, 3]], "use_tanh_at_final": False, "activation": "snakebeta",
            "use_bias_at_final": False, **more}


VOCODER: dict[str, Any] = {
    "vocoder": _generator(80, [5, 4, 4, 2], [11, 8, 8, 4]),
    "bwe": _generator(32, [6, 5, 4, 2], [12, 11, 8, 4], apply_final_activation=False, input_sampling_rate=16000,
                      output_sampling_rate=48000, hop_length=80, n_fft=256, win_size=256, num_mels=64)}

SCHEDULER: dict[str, Any] = {
    "_class_name": "RectifiedFlowScheduler", "_diffusers_version": "0.25.1", "num_train_timesteps": 1000,
    "shifting": None, "base_resolution": None, "sampler": "LinearQuadratic"}

UPSAMPLER: dict[str, Any] = {
    "_class_name": "LatentUpsampler", "in_channels": LATENT, "num_blocks_per_stage": 1, "dims": 3, "mid_channels": 32,
    "spatial_upsample": True, "temporal_upsample": False, "spatial_scale": 2.0, "rational_resampler": False}

GEMMA_TEXT: dict[str, Any] = {
    "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "hidden_size": GEMMA_WIDTH,
    "intermediate_size": 2 * GEMMA_WIDTH, "num_hidden_layers": GEMMA_LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 512,
    "vocab_size": VOCABULARY}

TEXT_PROJECTION: dict[str, int] = {
    "caption_channels": GEMMA_WIDTH, "in_features": GEMMA_WIDTH * (GEMMA_LAYERS + 1), "video_features": WIDTH,
    "audio_features": AUDIO_WIDTH}

CHECKPOINT: dict[str, Any] = {"transformer": TRANSFORMER, "vae": VAE, "audio_vae": AUDIO_VAE, "vocoder": VOCODER,
                              "scheduler": SCHEDULER}


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, frames, and how often training takes this size."""

    width: int
    height: int
    frames: int
    weight: float

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.frames / FPS


SIZES = (Size(192, 128, 25, 0.6), Size(192, 128, 49, 0.15), Size(128, 128, 25, 0.1), Size(256, 128, 25, 0.1),
         Size(128, 64, 25, 0.05))
DEMO = SIZES[0]
