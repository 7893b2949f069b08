"""What the condition nodes share: the inputs of a source clip, and from ComfyUI's forms of clips to ours."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...ltx23_core.errors import RequestError
from ..checks import problems_of_socket, refuse
from ..sockets import Conditions, advanced
from .clip_file import clip_of

if TYPE_CHECKING:
    import torch

    from ...ltx23_core.conditioning.source import SourceClip
    from ...ltx23_core.media import Audio

MAX_FRAME = 10_000
MASK_SLACK = 1e-3


def chained() -> io.Input:
    """The input for the conditions before."""
    return Conditions.Input("conditions", optional=True, tooltip=(
        "Earlier conditions; this one is added to them."))


def output() -> io.Output:
    """The output of every condition node."""
    return Conditions.Output(display_name="conditions", tooltip="All conditions so far, for Sampler.")


def clip_inputs(sound: bool = True, length: str = "At least as long as the result.") -> list[io.Input]:
    """video, images, audio (with ``sound``) and source_fps; all optional, since a video stands for the others."""
    parts = "frames and rate"
    if sound:
        parts = "frames, sound and rate"
    inputs = [
        io.Video.Input("video", optional=True, tooltip=(
            f"The clip as a video, from Load Video: {parts}. {length} Any size: "
            "scaled to cover the result and cut in the middle.")),
        io.Image.Input("images", optional=True, tooltip=(
            "The clip's frames as images, in place of the video's. They are taken frame for frame unless "
            "source_fps says otherwise.")),
    ]
    if sound:
        inputs.append(io.Audio.Input("audio", optional=True, tooltip=(
            "The clip's sound, in place of the video's; it begins with the first frame.")))
    return inputs


def rate_input() -> io.Input:
    """Frames per second of the source."""
    tooltip = (
        "Frames per second of the clip. Where it differs from the sampler's fps, frames are left out or "
        "repeated. 0 (default): the rate of the video; images are taken frame for frame.")
    return advanced(io.Float.Input("source_fps", optional=True, default=0.0, min=0.0, max=1000.0, step=0.01,
                                   tooltip=tooltip))


def source_clip(video: Any = None, images: torch.Tensor | None = None,  # noqa: ANN401 (ComfyUI's VIDEO)
                audio: dict[str, Any] | None = None, source_fps: float = 0.0,
                sound: bool = True) -> SourceClip:
    """A source clip from a node's inputs; linked images and audio take the place of the video's.

    Raises:
        RequestError: nothing is linked. MediaError: what is linked cannot be used.
    """
    from ...ltx23_core.conditioning.source import SourceClip

    if video is not None:
        parts = clip_of(video)
        if images is None:
            images, source_fps = parts.images, source_fps or float(parts.rate)
        if audio is None:
            audio = parts.audio
    if images is not None:
        images = colours(images)
    heard = None
    if sound and audio is not None:
        heard = to_audio(audio)
    return SourceClip(images, heard, source_fps or None)


def masks_of(mask: torch.Tensor) -> torch.Tensor:
    """ComfyUI's MASK as (count, height, width): one without a count is one, and what arithmetic left a hair beyond 0
    and 1 is brought back."""
    if mask.ndim == 2:
        mask = mask[None]
    if not mask.is_floating_point():
        return mask
    low, high = map(float, mask.aminmax())
    if -MASK_SLACK <= low < 0 or 1 < high <= 1 + MASK_SLACK:
        return mask.clamp(0, 1)
    return mask


def colours(images: torch.Tensor) -> torch.Tensor:
    """The colours of IMAGE without alpha, grey in all three; RGB stays the same tensor: equal sources are encoded
    once."""
    if images.ndim != 4 or images.shape[-1] == 3:
        return images
    if images.shape[-1] == 1:
        return images.expand(*images.shape[:3], 3)
    return images[..., :3]


def to_audio(audio: dict[str, Any] | None) -> Audio:
    """ComfyUI's AUDIO as ours: of a batch the first, more than two channels mixed down, integer samples scaled.

    Raises:
        RequestError: a clip without sound, for which ComfyUI hands out nothing.
        MediaError: what is no sound.
    """
    from ...ltx23_core.media import Audio
    from ...ltx23_core.media.audio import as_float, as_stereo, check_sound

    if audio is None:
        raise RequestError("the clip that is linked to audio has no sound", "a clip with a sound track",
                           "Link another sound, or take the link away.")
    refuse(problems_of_socket("audio", "AUDIO", audio))
    waveform = as_float(audio["waveform"][:1].detach().cpu())
    if waveform.shape[1] > 2:
        waveform = as_stereo(waveform)
    sound = Audio(waveform, int(audio["sample_rate"]))
    check_sound(sound, "the sound")
    return sound
