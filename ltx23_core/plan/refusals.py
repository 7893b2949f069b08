"""What cannot be asked for, said before anything is loaded."""
from __future__ import annotations

from torch import Tensor

from ..errors import RequestError
from ..geometry import audio_latent_length, video_grid
from .condition import Clip
from .latents import Latents
from .stages import StagePlan

NOTHING_LEFT = 0.999  # a schedule that begins above this leaves nothing of what it starts from
UPSCALES = ("x2", "x1.5", "temporal_x2")


def check_start(start: Latents | None, clip: Clip, stage: StagePlan, batch: int) -> None:
    """Refuse latents that do not fit the first stage that runs, or that would have no effect.

    Raises:
        RequestError: none where they are needed, another size or length, another number of samples.
    """
    if start is None:
        if stage.number > 1:
            raise RequestError(f"stage {stage.number} was asked for without the latents of the stage before",
                               "the latents of stage 1, upscaled",
                               "Connect them through Latent Upscale, or choose stages: all.")
        return
    if stage.sigmas[0] > NOTHING_LEFT:
        raise RequestError("latents to start from are given and the schedule begins at sigma 1, which leaves "
                           "nothing of them", "sigmas that begin below 1",
                           "Give sigmas that begin lower (0.9 to 0.4), choose stages: second, or disconnect "
                           "the latents.")
    grid = video_grid(clip.width // stage.shrink, clip.height // stage.shrink, clip.frames)
    wanted = (grid.frames, grid.height, grid.width)
    if start.video is not None and clip.video and tuple(start.video.shape[2:]) != wanted:
        raise RequestError(f"the video latent to start from has the size {tuple(start.video.shape[2:])}",
                           f"{wanted} (latent frames, height, width) for {clip.frames} frames of "
                           f"{grid.width * 32}x{grid.height * 32}",
                           "Set width, height and frames of the result, and put Latent Upscale between the "
                           "stages.")
    length = audio_latent_length(clip.frames, clip.fps)
    if start.audio is not None and clip.audio and start.audio.shape[2] != length:
        raise RequestError(f"the audio latent to start from has {start.audio.shape[2]} steps",
                           f"{length} for {clip.frames} frames at {clip.fps:g} fps", "Use the same frames "
                                                                                     "and fps.")
    if start.batch not in (1, batch):
        raise RequestError(f"{start.batch} latents to start from are given for {batch} samples", f"1 or {batch}",
                           f"Set batch to {start.batch}.")


def check_upscale(kind: str, latent: Tensor, channels: int) -> None:
    """Refuse what no latent upscaler takes; see `Pipeline.upscale`."""
    if kind not in UPSCALES:
        raise RequestError(f"upscale kind is {kind!r}", f"one of {', '.join(UPSCALES)}", "Choose x2.")
    if latent.ndim != 5 or latent.shape[1] != channels:
        raise RequestError(f"the video latent has shape {tuple(latent.shape)}",
                           f"(batch, {channels}, frames, height, width)",
                           "Connect the video latent of the LTX-2.3 sampler.")
    if kind == "x1.5" and (latent.shape[3] % 2 or latent.shape[4] % 2):
        height, width = 32 * latent.shape[3], 32 * latent.shape[4]
        raise RequestError(f"a latent of {width}x{height} pixels is to be upscaled by 1.5",
                           "width and height that are multiples of 64", "Use another size, or x2.")
