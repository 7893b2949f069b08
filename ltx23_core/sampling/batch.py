"""Several seeds in one run, and what may be given to start from."""
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..conditioning.base import Clip
from ..errors import RequestError
from ..geometry import audio_latent_length, video_grid
from .run import Latents, Request, StagePlan, StageRunner, StepInfo

if TYPE_CHECKING:
    from ..pipeline import Pipeline


def run_batch(pipeline: Pipeline, request: Request, batch: int) -> Latents:
    """Run a request with the seeds seed, seed + 1, …, one after the other.

    One after the other, not side by side: so each sample is bit for bit its single run (batched products round
    otherwise), memory does not grow, and at the sizes of this model one sample fills the device.
    """
    if batch < 1:
        raise RequestError(f"batch is {batch}", "1 or more", "Use 1.")
    results = [StageRunner(pipeline, _one(request, index, batch)).run() for index in range(batch)]
    video, audio = (None if parts[0] is None else torch.cat(parts)
                    for parts in zip(*((result.video, result.audio) for result in results), strict=True))
    return replace(results[0], video=video, audio=audio)


def _one(request: Request, index: int, batch: int) -> Request:
    """The request of one sample; its steps are reported as part of the whole batch."""
    on_step = request.on_step

    def report(info: StepInfo) -> None:
        on_step(replace(info, step=index * info.steps + info.step, steps=batch * info.steps))

    return replace(request, seed=request.seed + index, on_step=on_step and report,
                   start=request.start and request.start.sample(index))


def check_audio_stage(name: str) -> str:
    """The name if it is one; `RequestError` otherwise."""
    if name not in ("first", "last"):
        raise RequestError(f"audio_stage is {name!r}", "first or last", "Leave it at the recipe's default.")
    return name


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
    if stage.sigmas[0] >= 1:
        raise RequestError("latents to start from are given and the schedule begins at sigma 1, which leaves "
                           "nothing of them", "sigmas that begin below 1",
                           "Give sigmas that begin lower (0.9 to 0.4), choose stages: second, or disconnect the "
                           "latents.")
    grid = video_grid(clip.width // stage.shrink, clip.height // stage.shrink, clip.frames)
    wanted = (grid.frames, grid.height, grid.width)
    if start.video is not None and clip.video and tuple(start.video.shape[2:]) != wanted:
        raise RequestError(f"the video latent to start from has the size {tuple(start.video.shape[2:])}",
                           f"{wanted} (latent frames, height, width) for {clip.frames} frames of "
                           f"{grid.width * 32}x{grid.height * 32}",
                           "Set width, height and frames of the result, and put Latent Upscale between the stages.")
    length = audio_latent_length(clip.frames, clip.fps)
    if start.audio is not None and clip.audio and start.audio.shape[2] != length:
        raise RequestError(f"the audio latent to start from has {start.audio.shape[2]} steps",
                           f"{length} for {clip.frames} frames at {clip.fps:g} fps", "Use the same frames and fps.")
    if start.batch not in (1, batch):
        raise RequestError(f"{start.batch} latents to start from are given for {batch} samples", f"1 or {batch}",
                           f"Set batch to {start.batch}.")
