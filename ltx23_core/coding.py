"""Pictures and sound <-> latents, and latents <-> larger ones: the parts of a pipeline that no LoRA touches."""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .config import AudioVAEConfig, UpsamplerConfig, VideoVAEConfig, VocoderConfig
from .decode.frames import to_frames
from .decode.sound import decode_sound, encode_sound
from .decode.tiles import (
    Tiling,
    auto_tiling,
    encode_tile_size,
    tiled_decode,
    tiled_decode_bytes,
    tiled_encode,
)
from .errors import NAN_FIX, RequestError
from .geometry import VideoGrid, video_grid
from .media.audio import Audio, as_float, as_stereo, is_finite
from .memory.estimates import encode_bytes, sound_decode_bytes, sound_encode_bytes, upsample_bytes
from .models.audio.mel import audio_latent_frames
from .models.video_vae.encoder import crop_frames
from .ops.resample import resample, resampled_length
from .plan.refusals import check_upscale
from .shared import Shared

AUTO_TILING = "auto"


@torch.no_grad()
def encode_video(shared: Shared, pixels: Tensor) -> Tensor:
    """See `Pipeline.encode_video`."""
    pixels = crop_frames(pixels)
    grid = video_grid(pixels.shape[4], pixels.shape[3], pixels.shape[2])
    shape = (grid.frames, grid.height, grid.width)
    tiling = auto_tiling(shape) if grid.frames > 1 else None
    frames, height, width = encode_tile_size(shape, tiling)
    [encoder] = shared.use("video_encoder", activation_bytes=encode_bytes(width, height, frames,
                                                                         shared.dtype.itemsize))
    return tiled_encode(lambda tile: encoder(tile.to(shared.residency.device, shared.dtype)), pixels, tiling,
                        shared.residency.check)


@torch.no_grad()
def encode_audio(shared: Shared, audio: Audio) -> Tensor:
    """See `Pipeline.encode_audio`."""
    config = AudioVAEConfig.from_dict(shared.overlay.require("audio_encoder").config)
    length = resampled_length(audio.waveform.shape[-1], audio.sample_rate, config.sampling_rate)
    latents = audio_latent_frames(length, config)
    need = sound_encode_bytes(config, latents, shared.dtype.itemsize)
    [encoder] = shared.use("audio_encoder", activation_bytes=need)
    sound = as_stereo(as_float(audio.waveform)).to(shared.residency.device)
    sound = resample(sound, audio.sample_rate, config.sampling_rate)
    return encode_sound(encoder, sound, config, shared.dtype, shared.residency.check)


@torch.no_grad()
def upscale(shared: Shared, latent: Tensor, kind: str = "x2") -> Tensor:
    """See `Pipeline.upscale`."""
    from .models.latent_upsampler import upsample
    check_upscale(kind, latent, shared.transformer_config.video.in_channels)
    name = f"upsampler_{kind}"
    config = UpsamplerConfig.from_dict(shared.overlay.require(name).config)
    need = upsample_bytes(config.mid_channels, VideoGrid(*latent.shape[2:]), shared.dtype.itemsize)
    [module] = shared.use(name, activation_bytes=need)
    made = []
    for one in latent.split(1):
        one = one.to(shared.residency.device, shared.dtype)
        made.append(upsample(module, one, *shared.statistics))
    return torch.cat(made)


def decode_video(shared: Shared, latent: Tensor, tiling: Tiling | str | None = AUTO_TILING,
                 eight_bit: bool = False) -> Iterator[Tensor]:
    """See `Pipeline.decode_video`."""
    config = VideoVAEConfig.from_dict(shared.overlay.require("video_decoder").config)
    if latent.ndim != 5 or latent.shape[1] != config.latent_channels:
        raise RequestError(f"the video latent has shape {tuple(latent.shape)}",
                           f"(batch, {config.latent_channels}, frames, height, width)",
                           "Connect the video latent of the LTX-2.3 sampler.")
    if not is_finite(latent):
        raise RequestError("the video latent holds NaN or infinity", "finite values", NAN_FIX)
    tiles = auto_tiling(latent.shape) if tiling == AUTO_TILING else tiling
    need = tiled_decode_bytes(config, latent.shape, tiles, shared.dtype)
    [decoder] = shared.use("video_decoder", activation_bytes=need)
    with torch.no_grad():
        for chunk in tiled_decode(decoder, latent.to(shared.residency.device, shared.dtype), tiles,
                                  shared.residency.check):
            yield to_frames(chunk[0], eight_bit)


@torch.no_grad()
def decode_audio(shared: Shared, latent: Tensor) -> Audio:
    """See `Pipeline.decode_audio`."""
    config = AudioVAEConfig.from_dict(shared.overlay.require("audio_decoder").config)
    if latent.ndim != 4 or latent.shape[1] != config.latent_channels or latent.shape[3] != config.latent_bins:
        raise RequestError(f"the audio latent has shape {tuple(latent.shape)}",
                           f"(batch, {config.latent_channels}, time, {config.latent_bins})",
                           "Connect the audio latent of the LTX-2.3 sampler.")
    if not is_finite(latent):
        raise RequestError("the audio latent holds NaN or infinity", "finite values", NAN_FIX)
    voices = VocoderConfig.from_dict(shared.overlay.require("vocoder").config)
    need = sound_decode_bytes(config, voices, latent.shape[2], shared.dtype.itemsize) * len(latent)
    decoder, vocoder = shared.use("audio_decoder", "vocoder", activation_bytes=need)
    latent = latent.to(shared.residency.device, shared.dtype)
    waveform = decode_sound(decoder, vocoder, latent, (config, voices), check=shared.residency.check)
    return Audio(waveform, voices.output_rate)
