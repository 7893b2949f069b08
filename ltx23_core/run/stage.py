"""One run of sampling: noise, stages, conditions, previews."""
from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..conditioning.base import Condition
from ..geometry import VideoGrid, audio_latent_length, audio_positions, video_grid, video_positions
from ..plan.condition import Clip, StageSetting
from ..plan.context import PromptContext, PromptPair
from ..plan.latents import Latents
from ..plan.stages import StagePlan
from ..plan.together import source_waveform
from ..plan.windows import Timeline
from ..sampling.denoiser import Denoiser
from ..sampling.solve import solve
from ..sampling.state import (
    StatePair,
    Streams,
    StreamState,
    audio_to_tokens,
    draw_noise,
    map_streams,
    tokens_to_audio,
    tokens_to_video,
    video_to_tokens,
)
from .engine import Engine
from .preview import LatentToRGB, PreviewQueue
from .progress import OnStep, StepInfo

NOISE_DTYPE = torch.bfloat16  # of the official pipelines' latents; drawn so in every precision, for the same stream
SEED_MASK = (1 << 63) - 1     # generators of some devices take no larger seed


@dataclass(frozen=True)
class Request:
    """Settings of one run, checked.

    Attributes:
        clip: what is made.
        stages: what runs, in order; `stage_count` is the recipe's number of stages.
        conditions: in the order in which they are applied.
        start: latents of an earlier stage, at the size of the first stage here.
        keep_first_audio: the sound of the first stage here is the result.
        timeline: of a long video; None: the clip is sampled in one piece.
        cache: encoded sources of the conditions, for all samples and stages of the run.
    """

    context: PromptPair
    clip: Clip
    seed: int
    stages: tuple[StagePlan, ...]
    stage_count: int
    conditions: tuple[Condition, ...]
    start: Latents | None
    keep_first_audio: bool
    noise_device: str
    on_step: OnStep | None
    preview_map: LatentToRGB | None
    timeline: Timeline | None = None
    cache: dict[Hashable, tuple[object, Tensor]] = field(default_factory=dict)


class StageRunner:
    """Runs stages one after the other; all noise comes from one generator (spec/07 §3)."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._request = engine, request
        self._device = engine.residency.device
        noise_device = self._device if request.noise_device == "auto" else torch.device(request.noise_device)
        self._generator = torch.Generator(noise_device).manual_seed(request.seed & SEED_MASK)
        self._drawn: list[tuple[int, ...]] = []
        self._previews = None if request.preview_map is None else PreviewQueue(request.preview_map)
        self._done, self._steps = 0, sum(len(stage.sigmas) - 1 for stage in request.stages)

    def run(self) -> Latents:
        """Sample; the latents of the last stage, on the CPU."""
        request, start = self._request, self._request.start
        latents: Streams = (None, None) if start is None else (start.video, start.audio)
        if start is not None and start.seed == request.seed:  # the same stream of noise goes on
            for shape in start.drawn:
                self._draw(shape)
        shrink, first_audio = request.stages[0].shrink, latents[1] if request.stages[0].number > 1 else None
        for stage in request.stages:
            if stage.shrink != shrink and latents[0] is not None:
                latents = (self._upscale(latents[0]), latents[1])
            latents, shrink = self._stage(stage, latents), stage.shrink
            first_audio = latents[1] if first_audio is None else first_audio
        audio = first_audio if request.keep_first_audio else latents[1]
        video, audio = (None if part is None else part.cpu() for part in (latents[0], audio))
        return Latents(video, audio, request.clip.fps, request.clip.frames, request.seed, tuple(self._drawn),
                       source_waveform(request.conditions, request.clip))

    def _upscale(self, latent: Tensor) -> Tensor:
        """A video latent at the size of the next stage."""
        return self._engine.upscale(latent)

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Noise of the run's generator, which remembers it, or of another one."""
        generator = generator or self._generator
        if generator is self._generator:
            self._drawn.append(shape)
        return draw_noise(shape, generator, self._device, NOISE_DTYPE)

    def _states(self, stage: StagePlan, grid: VideoGrid, latents: Streams) -> StatePair:
        """Both streams before noise: zeros or the last stage's latents, with the conditions at this stage's size."""
        clip, config = self._request.clip, self._engine.transformer_config
        length = audio_latent_length(clip.frames, clip.fps)
        place = {"device": self._device, "dtype": self._engine.dtype}
        video = audio = None
        if clip.video:
            tokens = (torch.zeros(1, grid.tokens, config.video.in_channels, **place) if latents[0] is None
                      else video_to_tokens(latents[0]).to(**place))
            video = StreamState.from_tokens(tokens, video_positions(grid, clip.fps))
        if clip.audio:
            tokens = (torch.zeros(1, length, config.audio.in_channels, **place) if latents[1] is None
                      else audio_to_tokens(latents[1]).to(**place))
            audio = StreamState.from_tokens(tokens, audio_positions(length))
        states, setting = (video, audio), StageSetting(stage.number, grid, length, clip.fps, self._engine,
                                                       latents[0] is None and latents[1] is None,
                                                       self._request.cache)
        for condition in self._request.conditions:
            states = condition.apply(states, setting)
        return states

    def _grid(self, stage: StagePlan) -> VideoGrid:
        clip = self._request.clip
        return video_grid(clip.width // stage.shrink, clip.height // stage.shrink, clip.frames)

    def _stage(self, stage: StagePlan, latents: Streams) -> Streams:
        grid = self._grid(stage)
        states = self._states(stage, grid, latents)
        noise = map_streams(lambda state: self._draw(tuple(state.clean.shape)), states)
        return self._latents(self._denoise(stage, grid, states, noise, self._request.context, self._generator), grid)

    def _latents(self, tokens: Streams, grid: VideoGrid) -> Streams:
        """Tokens of both streams as latents, without appended ones."""
        return (None if tokens[0] is None else tokens_to_video(tokens[0], grid),
                None if tokens[1] is None else tokens_to_audio(tokens[1], self._engine.audio_latent_channels))

    def _denoise(self, stage: StagePlan, grid: VideoGrid, states: StatePair, noise: Streams, pair: PromptPair,
                 generator: torch.Generator) -> Streams:
        """Clean tokens from states and their noise."""
        dtype = self._engine.dtype

        def placed(context: PromptContext) -> PromptContext:
            return PromptContext(*(part.to(self._device, dtype) for part in (context.video, context.audio)))

        transformer = self._engine.use_transformer(
            stage, tuple(0 if state is None else state.clean.shape[1] for state in states),
            masked=states[0] is not None and states[0].attention is not None)
        negative = placed(pair.negative) if stage.guidance or stage.solver.uses_uncond else None
        guidance = stage.guidance and replace(stage.guidance, **{  # a frozen stream is context only (spec/07 §8)
            name: None for name, state in zip(("video", "audio"), states, strict=True) if state and state.frozen})
        denoiser = Denoiser(transformer, placed(pair.positive), negative, guidance, *states,
                            check=self._engine.residency.check)
        start = map_streams(lambda state, part: state.noised(part, stage.sigmas[0]), states, noise)
        x = solve(stage.solver, denoiser, states, start, stage.sigmas, generator,
                  lambda shape: self._draw(shape, generator), self._step_hook(stage, grid))
        self._done += len(stage.sigmas) - 1
        return map_streams(lambda state, part: state.exact(part), states, x)

    def _step_hook(self, stage: StagePlan, grid: VideoGrid) -> Callable[[int, Streams], None] | None:
        on_step, done = self._request.on_step, self._done
        if on_step is None:
            return None

        def hook(step: int, denoised: Streams) -> None:
            picture = None
            if self._previews is not None and denoised[0] is not None:
                self._previews.put(tokens_to_video(denoised[0], grid))
                picture = self._previews.take()
            on_step(StepInfo(done + step + 1, self._steps, stage.number, self._request.stage_count,
                             stage.sigmas[step], picture))

        return hook
