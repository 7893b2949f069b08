"""Reference video of an IC-LoRA: its latents as tokens beside those of the clip (spec/07 §8; goldens: reference_video).
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional

from ..config import MAX_REFERENCE_SCALE
from ..errors import RequestError
from ..geometry import TIME_SCALE, VideoGrid, video_positions
from ..plan.condition import ADDS, FREE, REFERENCE, Added, Clip, StageSetting
from ..sampling.seen import Seen
from ..sampling.state import StatePair, StreamState, video_to_tokens
from .mask import check_mask, of_frames, visible
from .scales import reference_scales as reference_scales
from .source import SourceClip, encode_frames, note_cut


@dataclass(frozen=True)
class ReferenceVideo:
    """A clip that an IC-LoRA follows (depth, pose, edges, a video to change …). Acts in stage 1 only (official).

    Attributes:
        source: its frames. Those beyond the result's length are cut, with a note in the log; a shorter reference
            ends earlier. No H.264 round trip (official).
        strength: 0 to 1, how firmly the reference's tokens are held; mask 1 - strength.
        attention_strength: 0 to 1, how much the clip and the reference see of each other; 1: without a mask.
        mask: (F, H, W) or (1, H, W) in [0, 1], weights of ``attention_strength`` in space and time, frame for frame
            with the source; None: 1 everywhere.
        downscale: the reference is encoded at the stage's width and height divided by this, as its LoRA was trained
            (`reference_scales`).
        temporal: every so manieth frame is taken.
    """

    source: SourceClip
    strength: float = 1.0
    attention_strength: float = 1.0
    mask: Tensor | None = None
    downscale: int = 1
    temporal: int = 1
    name = "Reference Video"
    order = REFERENCE

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        self.source.need_frames(self.name)
        for what, value in (("strength", self.strength), ("attention strength", self.attention_strength)):
            if not 0 <= value <= 1:
                raise RequestError(f"reference {what} is {value}", "a number from 0 to 1", "Use 1.0.")
        for what, value in (("downscale", self.downscale), ("temporal", self.temporal)):
            if not (isinstance(value, int) and 1 <= value <= MAX_REFERENCE_SCALE):
                raise RequestError(f"reference {what} factor is {value}",
                                   f"a whole number from 1 to {MAX_REFERENCE_SCALE}",
                                   "Use the factor of the LoRA's metadata, or 1.")
        if self.mask is not None:
            check_mask(self.mask, len(self.source.frames))

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"video": ADDS}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        step = 32 * self.downscale
        for side, size in (("width", clip.width), ("height", clip.height)):
            if size // clip.shrink % step:
                near = max(1, round(size / (step * clip.shrink))) * step * clip.shrink
                raise RequestError(
                    f"the {side} of the stage that sees the reference is {size // clip.shrink}, and the "
                    f"reference is made {self.downscale} times smaller", f"a multiple of {step}",
                    f"Set {side} to {near}.")
        note_cut(self.name, len(self.source.picks(clip.fps)) - clip.frames)

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`."""
        if number != 1:
            return Added()
        frames = len(kept_frames(self.source.first(clip.frames, clip.fps), self.temporal))
        size = (frames - 1) // TIME_SCALE + 1, grid.height // self.downscale, grid.width // self.downscale
        times = reference_positions(size, clip.fps, self.downscale, self.temporal)[0, 0]
        masked = self.mask is not None or not math.isclose(self.attention_strength, 1.0)
        return Added(times, held=(frozenset((self.strength,)), FREE), masked=masked)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Append the encoded reference to the video state."""
        video, audio = states
        if video is None or stage.number != 1:
            return states
        picks = kept_frames(self.source.first(stage.grid.pixel_frames, stage.fps), self.temporal)
        latent = encode_frames(stage, self.source.frames, picks, stage.width // self.downscale,
                               stage.height // self.downscale)
        weights = None
        if self.mask is not None:
            weights = mask_weights(self.mask, picks, latent.shape[2:], (stage.height, stage.width),
                                   tuple(self.source.frames.shape[1:3]))
        return append_reference(video, latent, stage.grid.tokens, stage.fps, self, weights), audio


def kept_frames(picks: tuple[int, ...], temporal: int) -> tuple[int, ...]:
    """Frames 0, 1, 1 + S, 1 + 2 S, … cut to 8 k + 1 (goldens: reference_video, temporal)."""
    kept = (*picks[:1], *picks[1::temporal])
    return kept[:(len(kept) - 1) // TIME_SCALE * TIME_SCALE + 1]


def mask_weights(mask: Tensor, picks: tuple[int, ...], size: tuple[int, int, int], target: tuple[int, int],
                 picture: tuple[int, int] | None = None) -> Tensor:
    """A mask as weights of the reference's tokens: averaged over each cell's area and frames.

    Args:
        mask: (F, H, W) or (1, H, W) in [0, 1].
        picks: the frames that were encoded.
        size: latent frames, height and width of the reference.
        target: height and width of the clip, whose proportions are cut out.
        picture: height and width of the reference's frames, over which the mask is laid; None: of the mask.

    Returns:
        float32 (1, tokens).
    """
    seen = visible(of_frames(mask, picks), *target, picture)
    cells = functional.interpolate(seen[:, None], size=tuple(size[1:]), mode="area")[:, 0]
    if len(cells) == 1:
        return repeat(cells, "1 h w -> 1 (f h w)", f=size[0])
    # A latent frame is several frames.
    later = reduce(cells[1:], "(f frames) h w -> f h w", "mean", f=size[0] - 1)
    return rearrange(torch.cat((cells[:1], later)), "f h w -> 1 (f h w)")


def reference_positions(size: tuple[int, int, int], fps: float, downscale: int, temporal: int) -> Tensor:
    """Positions of a reference's tokens in the clip: float32 (1, 3, tokens, 2) in seconds, pixels, pixels.

    Height and width times the downscale factor. Time t S / fps, shifted by (S - 1) / fps and not below 0, so that
    the last reference latent ends with the clip's (spec/07 §8).
    """
    positions = video_positions(VideoGrid(*size), 1.0)
    positions[:, 0] = (positions[:, 0] * temporal - (temporal - 1)).clamp(min=0) / fps
    positions[:, 1:] *= downscale
    return positions


def append_reference(state: StreamState, latent: Tensor, target_tokens: int, fps: float,
                     reference: ReferenceVideo, weights: Tensor | None = None) -> StreamState:
    """Append an encoded reference (1, C, f, h, w) to the video state.

    Args:
        state: with all tokens that come before it.
        latent: of the reference.
        target_tokens: how many of the state's tokens, the first ones, are the clip.
        fps: of the clip.
        reference: its strengths and factors.
        weights: float32 (1, tokens) in [0, 1], or None.
    """
    before, attention = state.clean.shape[1], state.attention
    tokens = video_to_tokens(latent).expand(state.clean.shape[0], -1, -1)
    positions = reference_positions(tuple(latent.shape[2:]), fps, reference.downscale, reference.temporal)
    state = state.appended(tokens, positions, reference.strength)
    if attention is None and weights is None and math.isclose(reference.attention_strength, 1.0):
        return state  # without a mask all tokens see each other
    if attention is None:
        attention = Seen.of_clip(before, target_tokens, state.clean.device)
    seen = torch.ones(tokens.shape[1])
    if weights is not None:
        seen = weights.flatten()
    return replace(state, attention=attention.with_reference(seen * reference.attention_strength))
