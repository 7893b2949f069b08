"""Pictures and sound <-> latents, and latents <-> larger ones: the parts of a pipeline that no LoRA touches."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn

from .config import AudioVAEConfig, UpsamplerConfig, VideoVAEConfig, VocoderConfig
from .decode.beside import Beside, behind_chunks, gains
from .decode.frames import leaving
from .decode.sound import decode_pieces, decode_sound, encode_pieces, encode_sound
from .decode.tiles import Tiling, auto_tiling, encode_tile_size, tile_count, tiled_encode
from .decode.ways import AUTO_TILING, Way, ways
from .errors import NAN_FIX, RequestError
from .geometry import VideoGrid, audio_latent_length, video_grid
from .media.audio import Audio, as_float, as_stereo, is_finite
from .memory.estimates import (
    encode_bytes,
    sound_beside_bytes,
    sound_decode_bytes,
    sound_encode_bytes,
    upsample_bytes,
)
from .memory.memory_plan import Stage
from .memory.room import gb, refusal
from .models.audio.mel import audio_latent_frames
from .models.checked import before_each, residual_blocks
from .models.video_vae.encoder import crop_frames
from .ops.resample import resample, resampled_length
from .plan.decide import Decision
from .plan.refusals import check_upscale
from .shared import Shared

log = logging.getLogger("ltx23")

SECOND_TRY = 0.75  # of the bytes that did not do: the most that the second way to decode may need
SOUND = ("audio_decoder", "vocoder")
BOTH = ("video_decoder", *SOUND)


@contextmanager
def _counted(shared: Shared, *modules: nn.Module, times: int) -> Iterator[None]:
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
    with _counted(shared, encoder, times=tile_count(shape, tiling)):
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
    with _counted(shared, encoder, times=encode_pieces(config, latents)):
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
    with _counted(shared, module, times=len(latent)):
        for one in latent.split(1):
            one = one.to(shared.residency.device, shared.dtype)
            made.append(upsample(module, one, *shared.statistics))
    return torch.cat(made)


class Sound:
    """The sound of a clip, decoded alone or beside its picture.

    Args:
        shared: of the pipeline.
        latent: (B, C, T, bins).

    Raises:
        RequestError: no audio latent, or a broken one. OverlayError: the overlay lacks a part.
    """

    def __init__(self, shared: Shared, latent: Tensor) -> None:
        """Nothing is decoded yet."""
        config = AudioVAEConfig.from_dict(shared.overlay.require("audio_decoder").config)
        if latent.ndim != 4 or latent.shape[1] != config.latent_channels or latent.shape[3] != config.latent_bins:
            raise RequestError(f"the audio latent has shape {tuple(latent.shape)}",
                               f"(batch, {config.latent_channels}, time, {config.latent_bins})",
                               "Connect the audio latent of the LTX-2.3 sampler.")
        if not is_finite(latent):
            raise RequestError("the audio latent holds NaN or infinity", "finite values", NAN_FIX)
        self._configs = config, VocoderConfig.from_dict(shared.overlay.require("vocoder").config)
        self._shared, self._latent = shared, latent
        self._beside: Beside | None = None
        self._blocks: list[nn.Module] = []  # of what decodes it beside
        self._take: Callable[[], Tensor] | None = None  # once it was asked for

    @property
    def bytes_beside(self) -> int:
        """What it takes on a second stream, beside its weights."""
        size = self._shared.dtype.itemsize
        return sound_beside_bytes(*self._configs, self._latent.shape[2], size) * len(self._latent)

    def alone(self) -> None:
        """Decode it now, with the device to itself, unless it was asked for before."""
        if self._take is not None:
            return
        shared, length = self._shared, self._latent.shape[2]
        need = sound_decode_bytes(*self._configs, length, shared.dtype.itemsize) * len(self._latent)
        decoder, vocoder = shared.use(*SOUND, activation_bytes=need)
        with _counted(shared, decoder, vocoder, times=decode_pieces(self._configs, length)):
            waveform = self._decoded(decoder, vocoder)
        self._take = lambda: waveform

    def begin_beside(self, decoder: nn.Module, vocoder: nn.Module) -> None:
        """What is asked for from here on may run while it is decoded; its modules are on the device."""
        make = partial(self._decoded, decoder, vocoder, stays=True)
        self._beside = Beside(make, self._shared.home("audio_decoder")[0])
        self._blocks = residual_blocks(decoder, vocoder)

    def start(self) -> None:
        """Ask for it. An interrupt is heard meanwhile; the bar is that of the frames."""
        with before_each(self._blocks, self._shared.residency.check):
            self._beside.start()
        self._take = self._beside.on_cpu

    def end_beside(self) -> None:
        """What is asked for from here on runs when it is decoded."""
        self._beside.meet()

    def get(self) -> Audio:
        """The sound; waits for it. From the first frames on, in any thread."""
        return Audio(self._take(), self._configs[1].output_rate)

    def _decoded(self, decoder: nn.Module, vocoder: nn.Module, stays: bool = False) -> Tensor:
        latent = self._latent.to(*self._shared.home("audio_decoder"))
        check = self._shared.residency.check
        return decode_sound(decoder, vocoder, latent, self._configs, check=check, stays=stays)


def decode_clip(shared: Shared, video: Tensor, audio: Tensor, tiling: Tiling | str | None) -> (
        tuple[Iterator[Tensor], Callable[[], Audio]]):
    """See `Pipeline.decode_clip`."""
    sound = Sound(shared, audio)
    return decode_video(shared, video, tiling, eight_bit=True, sound=sound), sound.get


@torch.no_grad()  # of a generator: while it works, not while its caller does
def decode_video(shared: Shared, latent: Tensor, tiling: Tiling | str | None = AUTO_TILING,
                 eight_bit: bool = False, sound: Sound | None = None) -> Iterator[Tensor]:
    """See `Pipeline.decode_video`.

    Args:
        sound: of the same clip, where frames are of 8 bit: it was decoded, or asked for, when the first of them come.
    """
    config = VideoVAEConfig.from_dict(shared.overlay.require("video_decoder").config)
    if latent.ndim != 5 or latent.shape[1] != config.latent_channels:
        raise RequestError(f"the video latent has shape {tuple(latent.shape)}",
                           f"(batch, {config.latent_channels}, frames, height, width)",
                           "Connect the video latent of the LTX-2.3 sampler.")
    if not is_finite(latent):
        raise RequestError("the video latent holds NaN or infinity", "finite values", NAN_FIX)
    if shared.team is not None:
        if sound is not None:
            sound.alone()
        yield from _decoded_together(shared, config, latent, tiling, eight_bit)
        return
    found = ways(config, latent.shape, tiling, shared.home("video_decoder")[1])
    decoder = shared.component("video_decoder")
    number = shared.residency.choose(decoder, activations=list(map(attrgetter("bytes"), found)))
    tries = [found[number], *_smaller_than(found[number:])]
    together = _with_sound(shared, found[number], sound)
    if together is not None:
        tries.insert(0, together)
    done = 0
    for way in tries:
        beside = sound if way is together else None
        if sound is not None and beside is None:
            sound.alone()
        try:
            for frames in _frames_after(done, _decoded(shared, latent, way, eight_bit, beside)):
                done += len(frames)
                yield frames
            return
        except torch.cuda.OutOfMemoryError:
            pass  # the error's frames hold the activations: it must be gone before the next try
        log.warning("The device had less memory than the %s that were planned to %s.", gb(way.bytes), way.text)
        torch.cuda.empty_cache()
    raise refusal([decoder.need()], shared.residency.capacity_bytes, way.bytes)


def _smaller_than(found: Sequence[Way]) -> list[Way]:
    """The one way that is tried after the first of some: one with much less, or what there is with less."""
    for way in found:
        if way.bytes <= SECOND_TRY * found[0].bytes:
            return [way]
    return list(found[1:][-1:])


def _with_sound(shared: Shared, way: Way, sound: Sound | None) -> Way | None:
    """The same way with the sound beside it; None where that gains nothing, or something would have to leave for it."""
    if sound is None or not _on_one_device(shared):
        return None
    size = way.bytes + sound.bytes_beside
    if not shared.residency.has_room(*map(shared.component, BOTH), activation_bytes=size):
        return None
    return replace(way, bytes=size, text=f"{way.text}, the sound beside it")


def _on_one_device(shared: Shared) -> bool:
    """Whether picture and sound are decoded on one device, and one where that is of use."""
    device = shared.home("video_decoder")[0]
    return gains(device) and shared.home("audio_decoder")[0] == device


@torch.no_grad()
def _decoded(shared: Shared, latent: Tensor, way: Way, eight_bit: bool, sound: Sound | None) -> Iterator[Tensor]:
    """Frames of a latent, decoded in one way, and a sound beside them."""
    names = BOTH
    if sound is None:
        names = BOTH[:1]
    decoder, *voices = shared.use(*names, activation_bytes=way.bytes, how=way.text)
    latent = latent.to(*shared.home("video_decoder"))
    chunks = way.decoded(decoder, latent, shared.residency.check)
    if sound is None:
        yield from leaving(chunks, eight_bit)
        return
    sound.begin_beside(*voices)
    try:
        yield from leaving(behind_chunks(chunks, sound.start), eight_bit)
    finally:
        sound.end_beside()


@torch.no_grad()
def _decoded_together(shared: Shared, config: VideoVAEConfig, latent: Tensor, tiling: Tiling | str | None,
                      eight_bit: bool) -> Iterator[Tensor]:
    """Frames of a latent whose tiles the ranks share out."""
    if tiling == AUTO_TILING:
        tiling = auto_tiling(latent.shape)
    device, dtype = shared.home("video_decoder")
    [way] = ways(config, latent.shape, tiling, dtype)

    def use() -> list[nn.Module]:
        return shared.use("video_decoder", activation_bytes=way.bytes, how=way.text)

    [decoder] = shared.team.together(use)
    chunks = shared.team.decode(decoder, latent.to(device, dtype), tiling, shared.residency.check)
    yield from leaving(chunks, eight_bit)


def _frames_after(count: int, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Chunks of frames but for the first frames, which an earlier try gave."""
    for chunk in chunks:
        skipped = min(count, len(chunk))
        count -= skipped
        if skipped < len(chunk):
            yield chunk[skipped:]


@torch.no_grad()
def decode_audio(shared: Shared, latent: Tensor) -> Audio:
    """See `Pipeline.decode_audio`."""
    sound = Sound(shared, latent)
    sound.alone()
    return sound.get()


def stages(shared: Shared, decision: Decision) -> list[Stage]:
    """What the decoding of a run has on the device, for the line about all of it; parts that are missing are left out.
    """
    parts, clip, made = shared.overlay.components, decision.clip, []
    beside = 0
    if clip.audio and set(SOUND) <= parts.keys():
        vae = AudioVAEConfig.from_dict(parts["audio_decoder"].config)
        voices = VocoderConfig.from_dict(parts["vocoder"].config)
        size = shared.home("audio_decoder")[1].itemsize
        length = audio_latent_length(clip.frames, clip.fps)
        need = sound_decode_bytes(vae, voices, length, size)
        beside = sound_beside_bytes(vae, voices, length, size)
        made.append(shared.stage(*SOUND, activations=(need,)))
    if clip.video and "video_decoder" in parts:
        config = VideoVAEConfig.from_dict(parts["video_decoder"].config)
        grid = video_grid(clip.width, clip.height, clip.frames)
        shape = 1, config.latent_channels, grid.frames, grid.height, grid.width
        found = ways(config, shape, AUTO_TILING, shared.home("video_decoder")[1])
        made.append(shared.stage(
            "video_decoder",
            activations=list(map(attrgetter("bytes"), found)),
            ways=list(map(attrgetter("text"), found)),
        ))
        if beside:
            made += _stage_of_both(shared, found, beside)
    return made


def _stage_of_both(shared: Shared, found: Sequence[Way], beside: int) -> list[Stage]:
    """Picture and sound at the same time, where they may be (`_with_sound`): for the run's peak alone."""
    residency = shared.residency
    if not _on_one_device(shared) or residency.wish.mode == "stream":
        return []
    number = residency.choose(shared.component("video_decoder"), activations=list(map(attrgetter("bytes"), found)))
    size = found[number].bytes + beside
    if residency.choose(*map(shared.component, BOTH), activations=(size, 0)):
        return []  # one after the other
    return [shared.stage(*BOTH, activations=(size,))]
