"""One run of sampling: noise, stages, conditions, previews."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..conditioning.image import ImageCondition, apply_images
from ..geometry import VideoGrid, audio_latent_length, audio_positions, video_grid, video_positions
from ..recipes import Recipe
from ..runtime.preview import LatentToRGB, PreviewQueue
from .denoiser import Denoiser, PromptContext
from .guidance import Guidance
from .latents import (
    Streams,
    StreamState,
    audio_to_tokens,
    draw_noise,
    map_streams,
    tokens_to_audio,
    tokens_to_video,
    video_to_tokens,
)
from .solvers import euler

if TYPE_CHECKING:
    from ..pipeline import Pipeline

NOISE_DTYPE = torch.bfloat16  # of the official pipelines' latents; drawn so in every precision, for the same stream
SEED_MASK = (1 << 63) - 1     # generators of some devices take no larger seed


@dataclass(frozen=True)
class PromptPair:
    """A prompt and a negative prompt, encoded."""

    positive: PromptContext
    negative: PromptContext
    prompt: str
    negative_prompt: str


@dataclass(frozen=True)
class Latents:
    """Result of sampling.

    Attributes:
        video: (1, C, F', H', W').
        audio: (1, C, T, bins).
        fps: frames per second.
        frames: pixel frames of the decoded video.
    """

    video: Tensor
    audio: Tensor | None
    fps: float
    frames: int


@dataclass(frozen=True)
class StepInfo:
    """What a step tells its caller.

    Attributes:
        step, steps: steps done and all steps, over all stages.
        stage, stages: current stage, from 1, and their number.
        sigma: noise level that the step left.
        preview: uint8 (F', H', W', 3) on the CPU, or None where none is ready; never waits for the device.
    """

    step: int
    steps: int
    stage: int
    stages: int
    sigma: float
    preview: Tensor | None


OnStep = Callable[[StepInfo], None]


@dataclass(frozen=True)
class Request:
    """Settings of one run, checked."""

    context: PromptPair
    width: int
    height: int
    frames: int
    fps: float
    seed: int
    guidance: Guidance | None
    conditions: tuple[ImageCondition, ...]
    noise_device: str
    on_step: OnStep | None
    preview_map: LatentToRGB | None


class StageRunner:
    """Runs the stages of a recipe one after the other; all noise comes from one generator (spec/07 §3)."""

    def __init__(self, pipeline: Pipeline, recipe: Recipe, request: Request) -> None:
        self._pipeline, self._recipe, self._request = pipeline, recipe, request
        self._device = pipeline.residency.device
        noise_device = self._device if request.noise_device == "auto" else torch.device(request.noise_device)
        self._generator = torch.Generator(noise_device).manual_seed(request.seed & SEED_MASK)
        self._previews = None if request.preview_map is None else PreviewQueue(request.preview_map)

    def run(self, schedules: Sequence[Sequence[float]]) -> Latents:
        """Sample with one schedule a stage; each stage but the last runs at half the size of the next."""
        request, latents = self._request, (None, None)
        done, total = 0, sum(len(sigmas) - 1 for sigmas in schedules)
        for stage, sigmas in enumerate(schedules, 1):
            shrink = 2 ** (len(schedules) - stage)
            grid = video_grid(request.width // shrink, request.height // shrink, request.frames)
            if stage > 1:
                latents = (self._pipeline.upscale(latents[0]), latents[1])
            guidance = request.guidance if stage == 1 else None
            latents = self._stage(grid, sigmas, guidance, latents, (done, total, stage, len(schedules)))
            done += len(sigmas) - 1
        return Latents(latents[0].cpu(), latents[1].cpu(), request.fps, request.frames)

    def _states(self, grid: VideoGrid, latents: Streams) -> tuple[StreamState, StreamState]:
        """Both streams before noise: zeros or the last stage's latents, with the conditions of this stage's size."""
        request, config = self._request, self._pipeline.transformer_config
        length = audio_latent_length(request.frames, request.fps)
        place = {"device": self._device, "dtype": self._pipeline.dtype}
        video = (torch.zeros(1, grid.tokens, config.video.in_channels, **place) if latents[0] is None
                 else video_to_tokens(latents[0]).to(**place))
        audio = (torch.zeros(1, length, config.audio.in_channels, **place) if latents[1] is None
                 else audio_to_tokens(latents[1]).to(**place))
        state = StreamState.from_tokens(video, video_positions(grid, request.fps))
        if request.conditions:
            encoder = self._pipeline.use_video_encoder(grid.width * 32, grid.height * 32)
            state = apply_images(state, request.conditions, encoder, grid, request.fps)
        return state, StreamState.from_tokens(audio, audio_positions(length))

    def _stage(self, grid: VideoGrid, sigmas: Sequence[float], guidance: Guidance | None, latents: Streams,
               progress: tuple[int, int, int, int]) -> Streams:
        states = self._states(grid, latents)
        pair, dtype = self._request.context, self._pipeline.dtype

        def placed(context: PromptContext) -> PromptContext:
            return PromptContext(*(part.to(self._device, dtype) for part in (context.video, context.audio)))

        tokens = (states[0].clean.shape[1], states[1].clean.shape[1])
        transformer = self._pipeline.use_transformer(self._recipe, tokens, 1 if guidance is None else 4)
        denoiser = Denoiser(transformer, placed(pair.positive), placed(pair.negative) if guidance else None, guidance,
                            *states, check=self._pipeline.residency.check)

        def model(x: Streams, sigma: float, step: int) -> Streams:
            return map_streams(lambda state, part: state.blend(part), states, denoiser(x, sigma, step))

        noise = tuple(draw_noise(tuple(state.clean.shape), self._generator, self._device, NOISE_DTYPE)
                      for state in states)
        start = map_streams(lambda state, part: state.noised(part, sigmas[0]), states, noise)
        x = euler(model, start, sigmas, self._step_hook(grid, sigmas, progress))
        channels = self._pipeline.audio_latent_channels
        return tokens_to_video(x[0], grid), tokens_to_audio(x[1], channels)

    def _step_hook(self, grid: VideoGrid, sigmas: Sequence[float], progress: tuple[int, int, int, int]) -> (
            Callable[[int, Streams], None] | None):
        on_step, (done, total, stage, stages) = self._request.on_step, progress
        if on_step is None:
            return None

        def hook(step: int, denoised: Streams) -> None:
            picture = None
            if self._previews is not None:
                self._previews.put(tokens_to_video(denoised[0], grid))
                picture = self._previews.take()
            on_step(StepInfo(done + step + 1, total, stage, stages, sigmas[step], picture))

        return hook
