"""Inpainting: parts of a clip, in space and time, made anew."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..geometry import VideoGrid
from ..plan.condition import FILLS, FREE, SOURCE, WHOLLY, Added, Clip, StageSetting
from ..sampling.state import StatePair
from .mask import check_mask, latent_mask
from .source import SourceClip, video_tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inpaint:
    """What a mask marks in a clip is made anew, the rest is held exactly.

    The grain is the latent cell, 32 x 32 pixels and 8 frames: a cell is made anew if any of its pixels is marked
    (the largest value counts). In recipes of two stages the source is encoded at each stage's size, and the mask is
    laid on its grid. The sound is generated; chain `SourceAudio` to keep the source's.

    Attributes:
        source: frames, at least as many as the result; what is longer is cut, with a note in the log.
        mask: (F, H, W), one for each frame of the source, or (1, H, W) for all; 0 keeps, 1 makes anew. Values
            between change the cell by that much, as 1 - strength of an image does; a mask with more than 16 values is
            rounded to fifteenths (an error of 1/30 at most). A mask of other proportions than the frames is stretched
            over them, as ComfyUI does.
    """

    source: SourceClip
    mask: Tensor
    name = "Inpaint"
    order = SOURCE

    def __post_init__(self) -> None:
        """Refuse a clip without frames and what is no mask for it."""
        self.source.need_frames(self.name)
        check_mask(self.mask, len(self.source.frames))

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"video": FILLS}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        self.source.check_length(clip.frames, clip.fps, self.name)
        if not self.mask.any():
            log.warning("Inpaint: the mask is 0 everywhere, so nothing of the clip is made anew")

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`; a mask of 0 and 1 alone stays one on the latent grid."""
        hard = bool(((self.mask == 0) | (self.mask == 1)).all())
        return Added(held=(WHOLLY, FREE), soft=not hard)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Put the source into the video stream, open where the mask is."""
        video, audio = states
        if video is None:
            return states
        picks = self.source.first(stage.grid.pixel_frames, stage.fps)
        tokens = video_tokens(stage, self.source.frames, picks).to(video.clean).expand_as(video.clean)
        mask = latent_mask(self.mask, picks, stage.grid, tuple(self.source.frames.shape[1:3])).to(video.mask)
        video = replace(video, clean=tokens, mask=mask.expand_as(video.mask).contiguous())
        if stage.fresh:
            video = replace(video, initial=tokens)
        return video, audio
