"""Pictures and sound -> latents, and latents -> larger ones; no LoRA touches these. The way back: `decoding`."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .config import AudioVAEConfig, UpsamplerConfig
from .decode.sound import encode_pieces, encode_sound
from .decode.tiles import auto_tiling, encode_tile_size, tile_count, tiled_encode
from .geometry import VideoGrid, video_grid
from .media.audio import Audio, as_float, as_stereo
from .memory.estimates import encode_bytes, sound_encode_bytes, upsample_bytes
from .models.audio.mel import audio_latent_frames
from .models.checked import before_each, residual_blocks
from .models.video_vae.encoder import crop_frames
from .ops.resample import resample, resampled_length
from .plan.refusals import check_upscale
from .shared import Shared


@contextmanager
def counted(shared: Shared, *modules: nn.Module, times: int) -> Iterator[None]:
    """A bar for so many calls of these modules; each of their blocks is a place at which an interrupt is heard."""
    blocks, check = residual_blocks(*modules), shared.residency.check
    with shared.residency.counting(times * len(blocks)), before_each(blocks, check):
        yield


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
    home = shared.home("video_encoder")
    with counted(shared, encoder, times=tile_count(shape, tiling)):
        latent = tiled_encode(lambda tile: encoder(tile.to(*home)), pixels, tiling, shared.residency.check)
    return latent.to(shared.residency.device, shared.dtype)


@torch.no_grad()
def encode_audio(shared: Shared, audio: Audio) -> Tensor:
    """See `Pipeline.encode_audio`."""
    config = AudioVAEConfig.from_dict(shared.overlay.require("audio_encoder").config)
    length = resampled_length(audio.waveform.shape[-1], audio.sample_rate, config.sampling_rate)
    latents = audio_latent_frames(length, config)
    need = sound_encode_bytes(config, latents, shared.dtype.itemsize)
    [encoder] = shared.use("audio_encoder", activation_bytes=need)
    device, dtype = shared.home("audio_encoder")
    sound = as_stereo(as_float(audio.waveform)).to(device)
    sound = resample(sound, audio.sample_rate, config.sampling_rate)
    with counted(shared, encoder, times=encode_pieces(config, latents)):
        latent = encode_sound(encoder, sound, config, dtype, shared.residency.check)
    return latent.to(shared.residency.device, shared.dtype)


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
    with counted(shared, module, times=len(latent)):
        for one in latent.split(1):
            one = one.to(shared.residency.device, shared.dtype)
            made.append(upsample(module, one, *shared.statistics))
    return torch.cat(made)
