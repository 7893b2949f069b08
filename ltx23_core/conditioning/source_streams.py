"""Audio to video and video to audio: one stream given, the other made for it (spec/07 §7, §8)."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import RequestError
from ..media.audio import Audio, as_stereo, check_sound
from ..plan.condition import FREEZES, SOURCE, Clip, StageSetting
from ..sampling.state import StatePair, StreamState, audio_to_tokens, fit_latent_length
from .source import MARGIN, SourceClip, cut_sound, video_tokens

log = logging.getLogger(__name__)
NOISE_SEED = 42  # of the noise on the sound: the same in every run


@dataclass(frozen=True)
class SourceAudio:
    """Audio to video: a given sound, frozen in all stages; the picture is made for it. The file gets the original.

    Attributes:
        audio: mono or stereo, any rate. Cut to the clip; one that is shorter is filled up with silence, with a note
            in the log (the official code stops there).
        start: seconds of the sound that are left out at its beginning.
        noise: std of white noise that is added to the waveform (full scale 1) before it is encoded, 0 to 1. Very
            clean speech can leave faces still; the cure that users found is slight noise on the speech, 0.002 to
            0.01. It is only in what the model hears: `waveform` stays clean. 0 (official): none.
    """

    audio: Audio
    start: float = 0.0
    noise: float = 0.0
    name = "Source Audio"
    order = SOURCE

    def __post_init__(self) -> None:
        """Refuse what is no sound."""
        check_sound(self.audio)
        if not 0 <= self.noise <= 1:
            raise RequestError(f"the noise on the source sound is {self.noise}", "a number from 0 to 1",
                               "Use 0.")
        if not 0 <= self.start < self.audio.seconds:
            raise RequestError(f"the source sound is to begin at {self.start:g} s and lasts "
                               f"{self.audio.seconds:.2f} s", "a start within the sound", "Use 0.")

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"audio": FREEZES}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        if clip.audio and not clip.video:
            raise RequestError("Source Audio gives the sound in a run that makes nothing else",
                               "a run that makes a picture", "Set streams to both.")
        lacking = clip.seconds - (self.audio.seconds - self.start)
        if lacking > 1 / AUDIO_LATENTS_PER_SECOND:
            log.warning("Source Audio: the sound is %.2f s shorter than the clip; silence fills the rest",
                        lacking)

    def waveform(self, clip: Clip) -> Audio:
        """The original sound as long as the clip, for the file: stereo float32 on the CPU, without the noise."""
        cut = cut_sound(self.audio, self.start, clip.seconds, pad=True)
        return Audio(as_stereo(cut.waveform).detach().float().cpu().contiguous(), cut.sample_rate)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Freeze the audio stream at the encoded sound."""
        video, audio = states
        if audio is None:
            return states
        return video, frozen_stream(audio, audio_to_tokens(self._latent(stage)))

    def _latent(self, stage: StageSetting) -> Tensor:
        seconds = stage.audio_length / AUDIO_LATENTS_PER_SECOND + MARGIN

        def make() -> Tensor:
            sound = cut_sound(self.audio, self.start, seconds)
            if sound.seconds < seconds - MARGIN:
                sound = cut_sound(sound, 0, seconds, pad=True)
            return fit_latent_length(stage.encoders.encode_audio(self._noisy(sound)), stage.audio_length)

        return stage.once(self.audio, (self.start, self.noise, stage.audio_length), make)

    def _noisy(self, sound: Audio) -> Audio:
        if not self.noise:
            return sound
        waveform = sound.waveform.detach().float().cpu()
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(waveform.shape, generator=generator)
        return replace(sound, waveform=waveform + self.noise * noise)


@dataclass(frozen=True)
class SourceVideo:
    """Video to audio: a given picture, frozen in all stages at their size; the sound is made for it.

    Attributes:
        source: its frames; at least as many as the result. No H.264 round trip (official).
    """

    source: SourceClip
    name = "Source Video"
    order = SOURCE

    def __post_init__(self) -> None:
        """Refuse a clip without frames."""
        self.source.need_frames(self.name)

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"video": FREEZES}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        if clip.video and not clip.audio:
            raise RequestError("Source Video gives the picture in a run that makes nothing else",
                               "a run that makes sound", "Set streams to both.")
        self.source.check_length(clip.frames, clip.fps, self.name)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Freeze the video stream at the encoded frames."""
        video, audio = states
        if video is None:
            return states
        picks = self.source.first(stage.grid.pixel_frames, stage.fps)
        return frozen_stream(video, video_tokens(stage, self.source.frames, picks)), audio


def frozen_stream(state: StreamState, tokens: Tensor) -> StreamState:
    """A stream held whole at (1, N, C) tokens: mask 0, sigma 0, no noise at the start (spec/07 §8)."""
    tokens = tokens.to(state.clean).expand_as(state.clean)
    return replace(state, initial=tokens, clean=tokens, mask=torch.zeros_like(state.mask), frozen=True)
