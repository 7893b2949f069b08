"""Architecture of every LTX-2.3 component, as frozen dataclasses built from checkpoint metadata.

The values are those of the metadata field ``config`` of an official file (spec/01 §2.1, 04 §1, 05 §1, 06).
Nothing here has a size of its own: tiny and 22B models differ only in these numbers. Defaults are the
official code's defaults for keys that the 2.3 files do not carry.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import OverlayError

REGISTERS = 128            # learnable registers of a connector; fixed by the official code (spec/03 §4)
TEXT_TOKENS = 1024         # prompt length after padding (spec/03 §1)
ENHANCED_TOKENS = 512  # most that prompt enhancement writes, officially (spec/03 §6)
VIDEO_SCALE = (8, 32, 32)  # frames, height, width per latent cell (spec/04)
AUDIO_LATENTS_PER_SECOND = 25.0  # 16000 / 160 / 4 (spec/00 §3)

# What the code supports; the official configurator refuses other values too (spec/01 §2.1).
_TRANSFORMER_FIXED: dict[str, Any] = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm", "norm_elementwise_affine": False,
    "positional_embedding_type": "rope", "use_audio_video_cross_attention": True, "share_ff": False,
    "av_cross_ada_norm": True, "use_middle_indices_grid": True, "rope_type": "split",
    "frequencies_precision": "float64", "apply_gated_attention": True, "cross_attention_adaln": True,
    "connector_apply_gated_attention": True, "caption_proj_before_connector": True,
    "caption_projection_first_linear": False, "caption_projection_second_linear": False,
    "caption_proj_input_norm": False, "text_encoder_norm_type": "per_token_rms",
    "causal_temporal_positioning": True, "ff_bias": True, "audio_ff_bias": True,
    "use_prompt_adaln_single": True, "use_keyframes_abs_pos_embedding": False,
}


# Metadata of an IC-LoRA that say by what its reference is smaller than the video (spec/09 §5); the first that is there
# counts. Trainers of kohya's family put ``ss_`` before each, and write None where nothing was set.
_SPATIAL = ("reference_spatial_scale_factor", "reference_downscale_factor")
REFERENCE_SPATIAL = (*_SPATIAL, *(f"ss_{name}" for name in _SPATIAL))
REFERENCE_TEMPORAL = ("reference_temporal_scale_factor", "ss_reference_temporal_scale_factor")
_UNSET = ("", "none", "null")
MAX_REFERENCE_SCALE = 16


def reference_factor(metadata: Mapping[str, str], keys: tuple[str, ...]) -> tuple[str, int | None] | None:
    """What metadata state of an IC-LoRA's reference.

    Args:
        metadata: the text entries of a file's header.
        keys: `REFERENCE_SPATIAL` or `REFERENCE_TEMPORAL`.

    Returns:
        the key, and the factor (1 to `MAX_REFERENCE_SCALE`) or None where it is no such number; None: nothing stated.
    """
    for key in keys:
        text = str(metadata.get(key, "")).strip()
        if text.lower() not in _UNSET:
            return key, _scale(text)
    return None


def _scale(text: str) -> int | None:
    """The factor that a text is, None where it is none."""
    try:
        value = float(text.strip('"'))
    except ValueError:
        return None
    if value.is_integer() and 1 <= value <= MAX_REFERENCE_SCALE:
        return int(value)
    return None


def _check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], part: str) -> None:
    """Refuse a configuration that asks for an architecture this library does not have."""
    for key, want in fixed.items():
        if key in config and config[key] != want:
            raise OverlayError(f"{part} config has {key} = {config[key]!r}",
                               f"{want!r}, as in every LTX-2.3 file",
                               "Use an LTX-2.3 checkpoint; LTX-2.0 and 2.5 have another architecture.")


@dataclass(frozen=True)
class StreamConfig:
    """One stream (video or audio) of the transformer. Inner width = heads * head_dim."""

    in_channels: int
    out_channels: int
    heads: int
    head_dim: int
    max_pos: tuple[float, ...]

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """Dual-stream transformer (spec/02 §1)."""

    layers: int
    video: StreamConfig
    audio: StreamConfig
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    timestep_scale: float = 1000.0
    av_gate_timestep_scale: float = 1.0  # the official code's default; 2.3 files say 1000

    @property
    def cross_max_pos(self) -> tuple[float, ...]:
        """Longest time (seconds) of the cross-modal rotary positions (spec/02 §5)."""
        return (max(self.video.max_pos[0], self.audio.max_pos[0]),)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> TransformerConfig:
        """Build from ``config.transformer``; raises `OverlayError` for another architecture."""
        _check_fixed(config, _TRANSFORMER_FIXED, "transformer")
        video = StreamConfig(
            config["in_channels"], config["out_channels"], config["num_attention_heads"],
            config["attention_head_dim"], tuple(config["positional_embedding_max_pos"]))
        audio = StreamConfig(
            config.get("audio_in_channels", 128), config["audio_out_channels"], config["audio_num_attention_heads"],
            config["audio_attention_head_dim"], tuple(config["audio_positional_embedding_max_pos"]))
        return cls(
            layers=config["num_layers"], video=video, audio=audio,
            norm_eps=config["norm_eps"], rope_theta=config["positional_embedding_theta"],
            timestep_scale=config["timestep_scale_multiplier"],
            av_gate_timestep_scale=config.get("av_ca_timestep_scale_multiplier", 1.0),
        )


@dataclass(frozen=True)
class ConnectorConfig:
    """One text connector (spec/03 §4). Width = heads * head_dim, equal to its stream's width."""

    layers: int
    heads: int
    head_dim: int
    max_pos: tuple[float, ...]
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    @property
    def width(self) -> int:
        """Channels of the connector."""
        return self.heads * self.head_dim

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], audio: bool) -> ConnectorConfig:
        """Build the video or the audio connector from ``config.transformer``."""
        prefix = "audio_connector_" if audio else "connector_"
        return cls(layers=config.get(prefix + "num_layers", config["connector_num_layers"]),
                   heads=config[prefix + "num_attention_heads"],
                   head_dim=config[prefix + "attention_head_dim"],
                   max_pos=tuple(config.get("connector_positional_embedding_max_pos", (1,))),
                   rope_theta=config["positional_embedding_theta"])


@dataclass(frozen=True)
class TextProjectionConfig:
    """Feature extractor V2 (spec/03 §3). ``in_features`` = Gemma width * (Gemma layers + 1).

    A checkpoint does not say how many layers Gemma has: the shape of the projection's weight does, so the
    number is read from there when the overlay is made.
    """

    caption_channels: int
    in_features: int
    video_features: int
    audio_features: int


@dataclass(frozen=True)
class VideoVAEConfig:
    """Convolutional video VAE (spec/04 §1). Blocks are (name, layers or channel multiplier)."""

    latent_channels: int
    patch_size: int
    encoder_base_channels: int
    decoder_base_channels: int
    encoder_blocks: tuple[tuple[str, int], ...]
    decoder_blocks: tuple[tuple[str, int], ...]  # listed from the pixel side, built in reverse

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VideoVAEConfig:
        """Build from ``config.vae``; raises `OverlayError` for another architecture."""
        _check_fixed(config, {"dims": 3, "in_channels": 3, "out_channels": 3, "norm_layer": "pixel_norm",
                              "latent_log_var": "uniform", "causal_decoder": False,
                              "timestep_conditioning": False,
                              "spatial_padding_mode": "zeros", "use_quant_conv": False}, "vae")

        return cls(config["latent_channels"], config["patch_size"], config["encoder_base_channels"],
                   decoder_base_channels=config["decoder_base_channels"],
                   encoder_blocks=_vae_blocks(config["encoder_blocks"]),
                   decoder_blocks=_vae_blocks(config["decoder_blocks"]))


def _vae_blocks(listed: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[str, int], ...]:
    """(name, layers) of each group of residual blocks, (name, multiplier of the channels) of each other block."""
    blocks = []
    for name, args in listed:
        if name == "res_x":
            blocks.append((name, args["num_layers"]))
        else:
            blocks.append((name, args.get("multiplier", 1)))
    return tuple(blocks)


@dataclass(frozen=True)
class AudioVAEConfig:
    """Audio VAE and the mel front end before it (spec/05 §1)."""

    in_channels: int
    out_channels: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    res_blocks: int
    latent_channels: int
    mel_bins: int
    sampling_rate: int
    n_fft: int
    hop_length: int
    mel_fmin: float
    mel_fmax: float

    @property
    def latent_bins(self) -> int:
        """Mel bins of a latent: one halving between each pair of levels."""
        return self.mel_bins // 2 ** (len(self.channel_multipliers) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AudioVAEConfig:
        """Build from ``config.audio_vae``; raises `OverlayError` for another architecture."""
        params = config["model"]["params"]
        dd, pre = params["ddconfig"], config["preprocessing"]
        _check_fixed(dd, {"double_z": True, "norm_type": "pixel", "causality_axis": "height",
                          "mid_block_add_attention": False, "attn_resolutions": []}, "audio_vae")
        return cls(dd["in_channels"], dd["out_ch"], dd["ch"], tuple(dd["ch_mult"]), dd["num_res_blocks"],
                   dd["z_channels"], dd["mel_bins"], params["sampling_rate"], pre["stft"]["filter_length"],
                   pre["stft"]["hop_length"], pre["mel"]["mel_fmin"], pre["mel"]["mel_fmax"])


@dataclass(frozen=True)
class GeneratorConfig:
    """One BigVGAN-style generator (spec/05 §4)."""

    initial_channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    res_kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> GeneratorConfig:
        """Build from ``config.vocoder.vocoder`` or ``config.vocoder.bwe``."""
        _check_fixed(config, {"resblock": "AMP1", "activation": "snakebeta", "stereo": True,
                              "use_tanh_at_final": False, "use_bias_at_final": False}, "vocoder")
        return cls(config["upsample_initial_channel"], tuple(config["upsample_rates"]),
                   tuple(config["upsample_kernel_sizes"]), tuple(config["resblock_kernel_sizes"]),
                   tuple(map(tuple, config["resblock_dilation_sizes"])))


@dataclass(frozen=True)
class VocoderConfig:
    """Vocoder and its bandwidth extension (spec/05 §4, §5). Rates in Hz."""

    vocoder: GeneratorConfig
    bwe: GeneratorConfig
    input_rate: int
    output_rate: int
    hop_length: int
    n_fft: int
    mel_bins: int

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VocoderConfig:
        """Build from ``config.vocoder``."""
        bwe = config["bwe"]
        return cls(GeneratorConfig.from_dict(config["vocoder"]), GeneratorConfig.from_dict(bwe),
                   bwe["input_sampling_rate"], bwe["output_sampling_rate"], bwe["hop_length"], bwe["n_fft"],
                   bwe["num_mels"])


@dataclass(frozen=True)
class UpsamplerConfig:
    """Latent upsampler (spec/06); from the flat ``config`` of its own file."""

    in_channels: int
    mid_channels: int
    blocks_per_stage: int
    spatial: bool
    temporal: bool
    spatial_scale: float
    rational: bool

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> UpsamplerConfig:
        """Build from an upscaler file's metadata; raises `OverlayError` for another architecture."""
        _check_fixed(config, {"dims": 3}, "latent upsampler")
        return cls(config["in_channels"], config["mid_channels"], config["num_blocks_per_stage"],
                   config["spatial_upsample"], config["temporal_upsample"],
                   float(config.get("spatial_scale", 2.0)), config.get("rational_resampler", False))


MAX_LAYERS = 999  # more is no model but a damaged file
# transformers' defaults where a config.json of Gemma 3 has no value.
_GEMMA_DEFAULTS = {"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
                   "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}


def gemma_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of a Gemma config.json, with transformers' defaults; ValueError for absurd sizes."""
    values = {**_GEMMA_DEFAULTS, **config.get("text_config", config)}
    for name in _GEMMA_DEFAULTS:
        most = MAX_LAYERS if name == "num_hidden_layers" else 1 << 31
        if type(values[name]) is not int or not 1 <= values[name] <= most:
            raise ValueError(f"{name} is {values[name]!r}")
    return values


@dataclass(frozen=True)
class Stack:
    """Parts of a component that run one after the other, so that they may come and go one by one.

    Attributes:
        paths: of the ModuleLists with the blocks, in the order in which they run; block n of one has the parameters
            ``<path>.<n>.…``.
        shared: several passes call a block in turn before the next one is entered.
        table: a parameter outside the blocks of which only some rows are used, so that it may stay in its file.
        rows: weights of Linear layers that are used a piece of rows at a time, so that they may stay in their files;
            each counts as a block. There are no ``paths`` then.
    """

    paths: tuple[str, ...] = ()
    shared: bool = False
    table: str | None = None
    rows: tuple[str, ...] = ()


ROW_PIECES = 8  # in which such a weight is used, wherever it is: the results are the same bits


def row_pieces(rows: int) -> list[tuple[int, int]]:
    """[start, end) of each piece of so many rows."""
    step = -(-rows // ROW_PIECES)
    pieces = []
    for start in range(0, rows, step):
        pieces.append((start, min(start + step, rows)))
    return pieces
