"""Image conditions: the first frame held, other frames as appended keyframe tokens (spec/07 §8)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MediaError, RequestError
from ..geometry import VideoGrid, video_positions
from ..media.audio import is_finite
from ..media.image import check_pixels, compress_image, resize_and_crop, to_uint8
from ..plan.condition import ADDS, FREE, KEYFRAME, REPLACE, Added, Clip, StageSetting
from ..plan.recipes import IMAGE_CRF
from ..sampling.state import StatePair, StreamState, video_to_tokens

PLACEMENTS = ("auto", "append")


@dataclass(frozen=True)
class ImageCondition:
    """A picture that one frame shall show.

    Attributes:
        image: (H, W, 3), uint8 or float in [0, 1]; any size, scaled to cover the video and cropped.
        frame: pixel frame, 0 the first, negative from the end (-1 the last). Frame 0 replaces the first latent
            frame; another one is appended as keyframe tokens, which are not in the output.
        strength: 0 (no effect) to 1 (held exactly). High strength with a prompt without motion freezes the clip.
        crf: H.264 quality of the round trip that gives the picture a video frame's look; 0 is off.
        placement: "auto": as ``frame`` says. "append": frame 0 is appended, too, and the clip's first frame is
            generated after it: the official keyframe interpolation.
    """

    image: Tensor
    frame: int = 0
    strength: float = 1.0
    crf: int = IMAGE_CRF
    placement: str = "auto"
    name = "Image Condition"

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise RequestError(f"image strength is {self.strength}", "a number from 0 to 1", "Use 1.0.")
        check_pixels(self.image, "the image")
        if not is_finite(self.image):
            raise MediaError("the image holds NaN or infinity", "finite pixels in [0, 1]",
                             "Make it again; a step before this one went wrong.")
        if self.placement not in PLACEMENTS:
            raise RequestError(f"image placement is {self.placement!r}", f"one of {', '.join(PLACEMENTS)}",
                               "Choose auto.")

    @property
    def order(self) -> int:
        """See `Condition.order`."""
        if self.frame == 0 and self.placement == "auto":
            return REPLACE
        return KEYFRAME

    @property
    def roles(self) -> Mapping[str, str]:
        """See `Condition.roles`."""
        return {"video": ADDS}

    def check(self, clip: Clip) -> None:
        """See `Condition.check`."""
        self.frame_in(clip.frames)

    def frame_in(self, frames: int) -> int:
        """The condition's frame in a clip, counted from 0; `RequestError` if the clip has no such frame."""
        frame = self.frame
        if frame < 0:
            frame += frames
        if not 0 <= frame < frames:
            raise RequestError(f"an image is set at frame {self.frame} of a clip of {frames} frames",
                               f"{-frames} to {frames - 1}", "Use 0 for the first frame or -1 for the last.")
        return frame

    def added(self, clip: Clip, grid: VideoGrid, number: int) -> Added:
        """See `plan.condition.Planned`."""
        frame, held = self.frame_in(clip.frames), (frozenset((self.strength,)), FREE)
        if self.order == REPLACE:
            return Added(held=held)
        beside = VideoGrid(1, grid.height, grid.width)
        return Added(video_positions(beside, clip.fps, start_frame=frame)[0, 0], held=held)

    def pixels(self, width: int, height: int) -> Tensor:
        """The picture as the encoder takes it: float32 (1, 3, 1, height, width) in [-1, 1]."""
        image = self.image
        if self.crf:
            image = compress_image(to_uint8(image), self.crf)
        return resize_and_crop(image, height, width)

    def apply(self, states: StatePair, stage: StageSetting) -> StatePair:
        """Encode the picture at the stage's size and condition the video state with it."""
        video, audio = states
        if video is None:
            return states
        grid = stage.grid
        frame = self.frame_in(grid.pixel_frames)

        def make() -> Tensor:
            return stage.encoders.encode_video(self.pixels(stage.width, stage.height))

        latent = stage.once(self.image, (stage.width, stage.height, self.crf), make)
        return self.place(video, latent, frame, stage.fps), audio

    def place(self, video: StreamState, latent: Tensor, frame: int, fps: float) -> StreamState:
        """The video state with the encoded picture (1, C, 1, H', W') at a frame counted from 0."""
        tokens = video_to_tokens(latent).expand(video.clean.shape[0], -1, -1)
        if frame == 0 and self.placement == "auto":
            return video.replaced(tokens, 0, self.strength)
        positions = video_positions(VideoGrid(1, *latent.shape[3:]), fps, start_frame=frame)
        return video.appended(tokens, positions, self.strength)


def from_batch(images: Tensor, frame: int = 0, strength: float = 1.0, crf: int = IMAGE_CRF,
               placement: str = "auto") -> ImageCondition:
    """A condition from the first picture of a batch (B, H, W, 3)."""
    return ImageCondition(images[0].detach().to(torch.float32).cpu(), frame, strength, crf, placement)


def keyframes(images: Tensor, frames: Sequence[int], strengths: Sequence[float], crf: int = IMAGE_CRF,
              placement: str = "append") -> tuple[ImageCondition, ...]:
    """Conditions from a batch of pictures (B, H, W, 3), one for each frame number.

    Args:
        images: as many as frame numbers.
        frames: pixel frames, 0 the first, negative from the end.
        strengths: one for all, or one each.
        crf, placement: of `ImageCondition`; appending all is the official keyframe interpolation.

    Raises:
        RequestError: the numbers of pictures, frames and strengths do not agree.
    """
    count = len(images)
    if len(frames) != count:
        raise RequestError(f"{count} keyframe images and {len(frames)} frame numbers are given",
                           "one frame number for each image",
                           "Give as many numbers as images, such as 0, 60, -1.")
    if len(strengths) not in (1, count):
        raise RequestError(f"{len(strengths)} keyframe strengths are given for {count} images", f"1 or {count}",
                           "Give one strength for all, or one for each image.")
    if len(set(frames)) < count:
        raise RequestError("two keyframe images have the same frame number",
                           "a frame number of its own for each", "Change one of the numbers.")
    if len(strengths) == 1:
        strengths = list(strengths) * count
    made = []
    for index, (frame, strength) in enumerate(zip(frames, strengths, strict=True)):
        image = images[index:index + 1]
        made.append(from_batch(image, frame, strength, crf=crf, placement=placement))
    return tuple(made)
