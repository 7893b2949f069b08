"""Extend: a clip continued forward or backward, with its sound."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from ..config import AUDIO_LATENTS_PER_SECOND
from ..errors import RequestError
from ..geometry import TIME_SCALE, VideoGrid
from ..plan.condition import ADDS, SOURCE, WHOLLY, Added, Clip, StageSetting
from ..sampling.state import StatePair, StreamState, audio_to_tokens
from .source import SourceClip, audio_latent, latents_in, rising, video_tokens

log = logging.getLogger(__name__)
DIRECTIONS = ("forward", "backward")
MAX_BLEND = 64


@dataclass(frozen=True)
class Extend:
    """A clip stands at the beginning (forward) or the end (backward) of a longer one; the rest is generated.

    Two of them, one forward and one backward, join two clips. Held latents come out exactly.

    Forward, the first 8 k + 1 frames of the source are the first of the result. Backward, its last 8 k frames are the
    last of the result: within a clip a latent covers 8 frames, and only a clip's first one covers a single frame. The
    source is therefore encoded from the frame before those on, and that frame's latent is dropped: each latent kept
    was encoded after what really came before it. (Repeating the first frame 8 times in front would keep one frame
    more and hold a standstill of 7 frames in the result.) Sound is placed the same way: its first latent covers
    0.01 s, the others 0.04 s, so backward that one is dropped, and the others lie on the grid of the result, at most
    0.02 s from their true time.

    Attributes:
        source: frames and sound; without sound, sound is generated for the whole result. Frames that fill no latent
            are left out at the seam, with a note in the log. Sound beyond the frames is left out.
        direction: "forward" or "backward".
        blend: latent frames of the source next to the seam that are held less and less towards it, 0 to 64, with
            the sound of the same time; smooths the transition at the price of changing these frames.
    """

    source: SourceClip
    direction: str = "forward"
    blend: int = 0
    name = "Extend"
    order = SOURCE

    def __post_init__(self) -> None:
        """Refuse settings that no clip can have."""
        if self.direction not in DIRECTIONS:
            raise RequestError(f"the direction of Extend is {self.direction!r}",
                               f"one of {', '.join(DIRECTIONS)}", "Choose forward.")
        if not 0 <= self.blend <= MAX_BLEND:
            raise RequestError(f"the blend of Extend is {self.blend}", f"0 to {MAX_BLEND} latent frames",
                               "Use 0 or 2.")

    @property
    def forward(self) -> bool:
        """Whether the clip stands at the beginning."""
        return self.direction == "forward"

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`. Sound that comes with frames is left out where none is made."""
        if self.source.frames is None:
            return {"audio": ADDS}
        return {"video": ADDS}

    def frames_in(self, fps: float) -> int:
        """Frames of the result that the source holds: 8 k + 1 forward, 8 k backward."""
        whole = (len(self.source.picks(fps)) - 1) // TIME_SCALE * TIME_SCALE
        return whole + int(self.forward)

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        if self.source.frames is None:
            held, made = latents_in(self.source.audio.seconds), latents_in(clip.seconds)
            if held >= made:
                raise RequestError(f"the sound to extend lasts {self.source.audio.seconds:.2f} s and the "
                                   f"result {clip.seconds:.2f} s", "a result that is longer than the sound",
                                   "Set frames to a longer clip, or shorten the sound.")
            return
        held = self.frames_in(clip.fps)
        if held < 1:
            raise RequestError(f"the clip to extend backward has {len(self.source.picks(clip.fps))} frames",
                               f"at least {TIME_SCALE + 1}",
                               "Use a longer clip, or Image Condition for one frame.")
        if held >= clip.frames:
            raise RequestError(f"the clip to extend has {held} frames and the result {clip.frames}",
                               "a result that is longer than the clip",
                               f"Set frames to at least {(held // TIME_SCALE + 1) * TIME_SCALE + 1}.")
        count = len(self.source.picks(clip.fps))
        if count > held:
            log.info("Extend: %d frames of the clip next to the seam fill no latent and are left out",
                     count - held)
        if clip.audio and self.source.audio is None:
            log.info("Extend: the clip has no sound, so sound is generated for the whole result")
        elif clip.audio and self.source.audio.seconds < count / clip.fps - 1 / AUDIO_LATENTS_PER_SECOND:
            log.info("Extend: the clip's sound ends before its frames; sound is generated from there on")

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`: what is held, and each latent of the blend less than the one before."""

        def strengths(blend: int) -> frozenset[float]:
            return frozenset(rising(blend).flatten().tolist())

        ramp = round(self.blend * TIME_SCALE / clip.fps * AUDIO_LATENTS_PER_SECOND)
        return Added(held=(WHOLLY | strengths(self.blend), WHOLLY | strengths(ramp)))

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Hold the source's latents in their place in both streams."""
        video, audio = states
        if video is not None and self.source.frames is not None:
            video = self._video(video, stage)
        if audio is not None and self.source.audio is not None:
            audio = self._audio(audio, stage)
        return video, audio

    def _video(self, state: StreamState, stage: StageSetting) -> StreamState:
        picks, held = self.source.picks(stage.fps), self.frames_in(stage.fps)
        area = stage.grid.height * stage.grid.width
        if self.forward:
            tokens, start = video_tokens(stage, self.source.frames, picks[:held]), 0
        else:  # the first latent covers one frame alone, as none inside the result does
            tokens = video_tokens(stage, self.source.frames, picks[-held - 1:])[:, area:]
            start = stage.grid.tokens - tokens.shape[1]
        of_frames = self._strength(tokens.shape[1] // area, self.blend)
        strength = repeat(of_frames, "f 1 -> (f area) 1", area=area)
        return _held(state, tokens, start, strength)

    def _audio(self, state: StreamState, stage: StageSetting) -> StreamState:
        fps, seconds = stage.fps, self.source.audio.seconds
        if self.source.frames is not None:
            seconds = min(seconds, len(self.source.picks(fps)) / fps)
        tokens = audio_to_tokens(audio_latent(stage, self.source.audio, seconds))
        count = min(tokens.shape[1], latents_in(seconds))
        if self.forward:
            if self.source.frames is not None:
                count = min(count, latents_in(self.frames_in(fps) / fps))
            tokens, start = tokens[:, :count], 0
        else:
            start, first = self._shift(stage)
            tokens, start = tokens[:, first:count], start + first
        tokens = tokens[:, :max(0, state.clean.shape[1] - start)]
        if not tokens.shape[1]:
            return state
        ramp = round(self.blend * TIME_SCALE / fps * AUDIO_LATENTS_PER_SECOND)
        return _held(state, tokens, start, self._strength(tokens.shape[1], ramp))

    def _shift(self, stage: StageSetting) -> tuple[int, int]:
        """Backward: audio latents before the source's time 0 in the result, and the first one of it that is held."""
        frames, fps = stage.grid.pixel_frames, stage.fps
        if self.source.frames is None:
            return stage.audio_length - latents_in(self.source.audio.seconds), 1
        picks = len(self.source.picks(fps))
        begin = (picks - self.frames_in(fps)) / fps  # of the frames that are held, in the source
        first = max(1, 1 + round((begin - 0.01) * AUDIO_LATENTS_PER_SECOND))
        return round((frames - picks) / fps * AUDIO_LATENTS_PER_SECOND), first

    def _strength(self, count: int, blend: int) -> Tensor:
        """Strength of each of ``count`` latents, (count, 1): 1, and falling towards the seam over ``blend`` of them."""
        strength = torch.ones(count, 1)
        ramp = rising(min(blend, count))
        if len(ramp) and self.forward:
            strength[count - len(ramp):] = ramp.flip(0)
        elif len(ramp):
            strength[:len(ramp)] = ramp
        return strength


def _held(state: StreamState, tokens: Tensor, start: int, strength: Tensor) -> StreamState:
    return state.replaced(tokens.expand(state.clean.shape[0], -1, -1), start, strength.to(state.mask))
