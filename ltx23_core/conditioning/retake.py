"""Retake: a stretch of time of a clip made anew, in picture, sound or both (spec/07 §7; goldens: retake)."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import RequestError
from ..geometry import VideoGrid
from ..media.audio import Audio, as_float, as_stereo
from ..plan.condition import FILLS, FREE, FREEZES, SOURCE, WHOLLY, Added, Clip, StageSetting
from ..sampling.state import StatePair, StreamState, audio_to_tokens, fit_latent_length
from .source import SourceClip, audio_latent, cut_sound, video_tokens

log = logging.getLogger(__name__)
STREAMS = ("both", "video", "audio")


@dataclass(frozen=True)
class Retake:
    """A stretch [start, end) of a clip is made anew, the rest is held exactly.

    A latent is made anew if its time overlaps the stretch: 8 frames of picture, 0.04 s of sound. In recipes of two
    stages the source is encoded at each stage's size and the same stretch is made anew in both.

    Attributes:
        source: the clip, at least as long as the result; what is longer is cut, with a note in the log. A sound that
            is shorter is filled up with zeros in latent space (official, and not the same as silence). Without sound
            in the source, sound is generated for the whole clip, with a note.
        start, end: seconds from the beginning.
        regenerate: "both", "video" or "audio". The other stream is held whole. Officially it starts from noise
            all the same and comes to its source in the course of the steps, so that the stretch is made from it
            as it becomes clear; the result is the source.
    """

    source: SourceClip
    start: float
    end: float
    regenerate: str = "both"
    name = "Retake"
    order = SOURCE

    def __post_init__(self) -> None:
        """Refuse settings that no clip can have."""
        if self.regenerate not in STREAMS:
            raise RequestError(f"regenerate is {self.regenerate!r}", f"one of {', '.join(STREAMS)}",
                               "Choose both.")
        if not 0 <= self.start < self.end:
            raise RequestError(f"the stretch to make anew is {self.start:g} to {self.end:g} seconds",
                               "a start of 0 or more and a later end", "Give start and end in seconds.")
        if self.regenerate == "audio" and self.source.audio is None:
            raise RequestError("the clip of Retake has no sound of which a stretch could be made anew",
                               "a clip with sound",
                               "Link its sound, or use Source Video to make sound for all of it.")
        if self.regenerate != "audio" and self.source.frames is None:
            raise RequestError("the clip of Retake has no frames of which a stretch could be made anew",
                               "a clip with frames", "Link its frames, or set regenerate to audio.")

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        roles = {}
        if self.source.frames is not None:
            roles["video"] = self._role("video")
        if self.source.audio is not None:
            roles["audio"] = self._role("audio")
        return roles

    def _role(self, stream: str) -> str:
        if self.regenerate in (stream, "both"):
            return FILLS
        return FREEZES

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        if self.start >= clip.seconds:
            raise RequestError(f"the stretch to make anew begins at {self.start:g} s of a clip of "
                               f"{clip.seconds:.2f} s", "a start within the clip", "Give an earlier start.")
        if self.source.frames is not None:
            self.source.check_length(clip.frames, clip.fps, self.name)
        if clip.audio and self.source.audio is None:
            log.info("Retake: the clip has no sound, so sound is generated for all of it")

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`: what is kept; a stream that is kept whole has one timestep."""
        held = {FILLS: WHOLLY}
        return Added(held=(held.get(self.roles.get("video"), FREE), held.get(self.roles.get("audio"), FREE)))

    def waveform(self, clip: Clip) -> Audio | None:
        """The clip's own sound for the file, sample for sample, where only the picture is made anew; else None."""
        if self.regenerate != "video" or self.source.audio is None or not clip.audio:
            return None
        sound = cut_sound(self.source.audio, 0.0, clip.seconds, pad=True)
        return Audio(as_stereo(as_float(sound.waveform.detach())).cpu().contiguous(), sound.sample_rate)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Put the source into both streams; the stretch is open in those to regenerate."""
        video, audio = states
        source, fresh = self.source, stage.fresh
        if video is not None and source.frames is not None:
            picks = source.first(stage.grid.pixel_frames, stage.fps)
            video = retake_stream(video, video_tokens(stage, source.frames, picks), self.start, self.end,
                                  self.regenerate != "audio", fresh)
        if audio is not None and source.audio is not None:
            latent = fit_latent_length(audio_latent(stage, source.audio, stage.grid.pixel_frames / stage.fps),
                                       stage.audio_length)
            audio = retake_stream(audio, audio_to_tokens(latent), self.start, self.end,
                                  self.regenerate != "video", fresh)
        return video, audio


def region_mask(positions: Tensor, start: float, end: float) -> Tensor:
    """Which tokens overlap an open stretch of time: float32 (B, N, 1), 1 inside.

    t_end > start and t_start < end in float32, as officially (goldens: retake).

    Args:
        positions: float32 (B, axes, N, 2), the first axis time in seconds.
        start, end: seconds.
    """
    edges = torch.tensor((start, end), dtype=torch.float32, device=positions.device)
    begins, ends = positions[:, 0, :, 0], positions[:, 0, :, 1]
    return ((ends > edges[0]) & (begins < edges[1])).float()[..., None]


def retake_stream(state: StreamState, tokens: Tensor, start: float, end: float, regenerate: bool,
                  fresh: bool = True) -> StreamState:
    """A stream with a source as clean tokens, open within a stretch of time, or frozen whole.

    Args:
        state: without appended tokens.
        tokens: the source, (1, N, C).
        start, end: seconds.
        regenerate: False: the stream is frozen, and starts from noise all the same.
        fresh: the initial latents become the source's; False: they stay those of the stage before.
    """
    tokens = tokens.to(state.clean).expand_as(state.clean)
    if not regenerate:
        return replace(state, clean=tokens, initial=tokens, mask=torch.zeros_like(state.mask),
                       frozen=True, start_mask=torch.ones_like(state.mask))
    initial = state.initial
    if fresh:
        initial = tokens
    mask = region_mask(state.positions, start, end).expand_as(state.mask).contiguous()
    return replace(state, clean=tokens, initial=initial, mask=mask)
