"""What ComfyUI's VIDEO hands out, put right where ComfyUI 0.3.75 passes over what the file says.

Two things, both looked up in the file: a turned picture (phones write how to turn it beside the frames), and sound
whose channels alternate (FLAC and PCM decode so), which arrives as one channel of twice the length and more.
"""
from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import av
from comfy_api.latest import InputImpl

from ...ltx23_core.errors import LTX23Error, MediaError

if TYPE_CHECKING:
    import torch

QUARTER = 90  # degrees
# Of the host and of FFmpeg, whose errors are ValueErrors; a file with sound alone ends in an IndexError.
FAULTS = (AttributeError, LookupError, OSError, ValueError, StopIteration, RuntimeError, AssertionError)


class Clip(NamedTuple):
    """Frames (F, H, W, 3), sound as ComfyUI's AUDIO or None, frames per second."""

    images: torch.Tensor
    audio: dict[str, Any] | None
    rate: Fraction


def clip_of(video: Any) -> Clip:  # noqa: ANN401 (ComfyUI's VIDEO)
    """Frames, sound and rate of a video, as a player shows it.

    Raises:
        MediaError: its file has no picture, or cannot be decoded.
    """
    try:
        parts = video.get_components()
    except LTX23Error:
        raise
    except FAULTS as error:
        why = type(error).__name__
        if not _has_picture(video):  # hosts say it by errors of several kinds
            why = "it has no picture"
        raise MediaError(f"the frames of the clip that is linked to video cannot be read ({why})",
                         "a video file with a picture that FFmpeg can decode",
                         "Link another clip; link sound alone as AUDIO, from Load Audio.") from error
    images, audio = parts.images, parts.audio
    if isinstance(video, InputImpl.VideoFromFile) and len(images):
        with contextlib.suppress(*FAULTS), _opened(video.get_stream_source()) as file:
            images = _upright(images, file)
            audio = _apart(audio, file)
    return Clip(images, audio, parts.frame_rate)


def _has_picture(video: Any) -> bool:  # noqa: ANN401 (ComfyUI's VIDEO)
    """Whether a file has a stream of pictures; True where that cannot be told."""
    if isinstance(video, InputImpl.VideoFromFile):
        with contextlib.suppress(*FAULTS), _opened(video.get_stream_source()) as file:
            return bool(file.streams.video)
    return True


@contextlib.contextmanager
def _opened(source: str | io.BytesIO) -> Iterator[av.container.InputContainer]:
    with av.open(source, mode="r") as file:
        yield file


def _upright(images: torch.Tensor, file: av.container.InputContainer) -> torch.Tensor:
    """Frames turned as the file says, if they are not yet."""
    import torch

    first = next(file.decode(video=0))
    turns = round(getattr(first, "rotation", 0) / QUARTER) % 4  # counterclockwise
    coded = tuple(images.shape[1:3]) == (first.height, first.width)
    if not turns or not coded:
        return images
    as_stored = torch.equal(images[0], torch.from_numpy(first.to_ndarray(format="rgb24")) / 255.0)
    if as_stored or (turns % 2 and first.height != first.width):
        return torch.rot90(images, turns, dims=(1, 2)).contiguous()
    return images


def _apart(audio: dict[str, Any] | None, file: av.container.InputContainer) -> dict[str, Any] | None:
    """Sound whose channels alternate in one row, each channel in a row of its own."""
    if audio is None or not file.streams.audio:
        return audio
    stream, waveform = file.streams.audio[-1], audio["waveform"]  # of several the host takes the last
    channels = stream.layout.nb_channels
    if stream.format.is_planar or channels < 2 or waveform.shape[1] != 1 or waveform.shape[2] % channels:
        return audio
    return {**audio, "waveform": waveform.unflatten(2, (-1, channels)).squeeze(1).transpose(1, 2).contiguous()}
