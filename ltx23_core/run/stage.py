"""One sample carried through the stages of a plan: states, conditions, noise, windows, upscaling between stages."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..conditioning.base import Condition
from ..conditioning.voice import ReferenceVoice
from ..geometry import VideoGrid, audio_latent_length, audio_positions, video_positions
from ..plan.condition import StageSetting
from ..plan.decide import Decision
from ..plan.guidance import Guidance, without
from ..plan.latents import Latents, PromptContext, PromptPair
from ..plan.stages import StagePlan
from ..plan.together import source_waveform
from ..plan.windows import Tokens, Window
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
from .long import Made, empty, fade_in, hold, window_generator, window_index
from .preview import LatentToRGB, PreviewQueue
from .progress import OnStep, StepInfo
from .resume import Progress

NOISE_DTYPE = torch.bfloat16  # of the official pipelines' latents; drawn so in every precision, for the same stream
SEED_MASK = (1 << 63) - 1     # generators of some devices take no larger seed


@dataclass(frozen=True)
class Job:
    """What a runner does, beside the plan.

    Attributes:
        context: the prompt.
        seed: of this sample.
        start: latents of an earlier stage for this sample, at the size of the first stage here.
        before: steps of the samples before this one.
        progress: keeps finished windows.
        on_step: called after each step.
        preview_map: for `StepInfo.preview`.
        cache: encoded sources of the conditions, for all samples and stages of the run.
    """

    context: PromptPair
    seed: int
    start: Latents | None = None
    before: int = 0
    progress: Progress = field(default_factory=Progress)
    on_step: OnStep | None = None
    preview_map: LatentToRGB | None = None
    cache: dict[Hashable, tuple[object, Tensor]] = field(default_factory=dict)


class Runner:
    """Runs stages one after the other and in each the windows of the timeline; an ordinary run has one window.

    Noise and conditions are those of the whole timeline, and a window takes its part of them. So what fits one window
    is an ordinary run, bit for bit, and whatever can condition an ordinary run can condition a long one. All noise
    comes from one generator (spec/07 §3); windows after the first have their own, so that a run which is resumed goes
    on as if it had never stopped.
    """

    def __init__(self, engine: Engine, plan: Decision, job: Job) -> None:
        self._engine, self._plan, self._job = engine, plan, job
        self._device, self._check = engine.residency.device, engine.residency.check
        noise_device = {"auto": self._device}.get(plan.noise_device, plan.noise_device)
        self._generator = torch.Generator(noise_device).manual_seed(job.seed & SEED_MASK)
        self._drawn: list[tuple[int, ...]] = []
        self._previews = job.preview_map and PreviewQueue(job.preview_map)
        self._done = 0

    def run(self) -> Latents:
        """Sample; the latents of the last stage, on the CPU."""
        plan, start = self._plan, self._job.start
        video = audio = first_audio = None
        if start is not None:
            video, audio = start.video, start.audio
            if start.seed == self._job.seed:  # the same stream of noise goes on
                for shape in start.drawn:
                    self._draw(shape)
        if plan.stages[0].number > 1:
            first_audio = audio
        shrink = plan.stages[0].shrink
        for stage in plan.stages:
            if stage.shrink != shrink and video is not None:
                video = self._upscale(video)
            video, audio = self._stage(stage, (video, audio))
            shrink = stage.shrink
            if first_audio is None:
                first_audio = audio
        if plan.keep_first_audio:
            audio = first_audio
        video, audio = map_streams(Tensor.cpu, (video, audio))
        return Latents(
            video=video,
            audio=audio,
            fps=plan.clip.fps,
            frames=plan.clip.frames,
            seed=self._job.seed,
            drawn=tuple(self._drawn),
            waveform=source_waveform(plan.conditions, plan.clip),
        )

    def _upscale(self, latent: Tensor) -> Tensor:
        """Window by window: the upscaler's norms see clips of the length that they know, and memory does not grow."""
        timeline = self._plan.timeline
        if timeline.is_whole:
            return self._engine.upscale(latent)
        whole: Tensor | None = None
        for window in timeline.windows:
            part = self._engine.upscale(latent[:, :, slice(*window.video)])
            if whole is None:
                whole = part.new_empty(*part.shape[:2], latent.shape[2], *part.shape[3:])
            place = whole[:, :, slice(*window.video)]  # (B, C, time, H', W')
            fade_in(place.movedim(2, 1), part.movedim(2, 1), window.held[0])
        return whole

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Noise of the run's generator, which remembers it, or of another one."""
        generator = generator or self._generator
        if generator is self._generator:
            self._drawn.append(shape)
        return draw_noise(shape, generator, self._device, NOISE_DTYPE)

    def _stage(self, stage: StagePlan, latents: Streams) -> Streams:
        plan, grid = self._plan, self._plan.grid(stage)
        states = self._states(stage, grid, latents)
        noise = map_streams(lambda state: self._draw(tuple(state.clean.shape)), states)
        made = empty(states, grid, plan.timeline)
        done = self._job.progress.load(stage.number, made)
        for number, window in enumerate(plan.timeline.windows):
            own, drawn = self._part(window, grid, states, noise)
            if number < done:
                self._done += stage.steps
                if number == 0:
                    self._draw_again(stage, drawn)
                continue
            generator = self._generator
            if number > 0:
                own = self._holding(window, own, made)
                generator = window_generator(self._generator, self._job.seed, number)
            part_grid = VideoGrid(window.frames, grid.height, grid.width)
            clean = self._denoise(stage, part_grid, own, drawn, window, generator)
            self._keep(made, clean, window)
            self._job.progress.save(stage.number, number + 1, made)
        return self._latents(made, grid)

    def _states(self, stage: StagePlan, grid: VideoGrid, latents: Streams) -> StatePair:
        """Both streams before noise: zeros or the last stage's latents, with the conditions at this stage's size."""
        clip, config = self._plan.clip, self._engine.transformer_config
        length = audio_latent_length(clip.frames, clip.fps)
        video = audio = None
        if clip.video:
            tokens = self._tokens(latents[0], video_to_tokens, (1, grid.tokens, config.video.in_channels))
            video = StreamState.from_tokens(tokens, video_positions(grid, clip.fps))
        if clip.audio:
            tokens = self._tokens(latents[1], audio_to_tokens, (1, length, config.audio.in_channels))
            audio = StreamState.from_tokens(tokens, audio_positions(length))
        setting = StageSetting(
            number=stage.number,
            grid=grid,
            audio_length=length,
            fps=clip.fps,
            encoders=self._engine,
            fresh=latents == (None, None),
            cache=self._job.cache,
            check=self._check,
        )
        states = (video, audio)
        for condition in self._plan.conditions:
            self._check()
            states = condition.apply(states, setting)
        return map_streams(StreamState.with_few_levels, states)

    def _tokens(self, latent: Tensor | None, convert: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
        """A latent of the stage before as tokens, or zeros (1, N, C)."""
        if latent is None:
            return torch.zeros(shape, device=self._device, dtype=self._engine.dtype)
        return convert(latent).to(self._device, self._engine.dtype)

    def _draw_again(self, stage: StagePlan, drawn: Streams) -> None:
        """The solver's noise of a first window that is already done: the run's generator goes on after it."""
        for _ in range(stage.solver.noise_draws(stage.sigmas)):
            map_streams(lambda part: self._draw(tuple(part.shape)), drawn)

    def _part(self, window: Window, grid: VideoGrid, states: StatePair, noise: Streams) -> tuple[StatePair, Streams]:
        """States and noise of a window's tokens; the whole is taken as it is."""
        if self._plan.timeline.is_whole:
            return states, noise
        index = window_index(window, grid, states)
        own = map_streams(lambda state, i: state.take(i, window.origin), states, index)
        return own, map_streams(lambda part, i: part[:, i.to(part.device)], noise, index)

    def _holding(self, window: Window, states: StatePair, made: Made) -> StatePair:
        """States whose beginning is what the window before made."""
        strength = self._plan.timeline.settings.strength
        video, audio = states
        return (hold(video, made.get("video"), window, "video", strength),
                hold(audio, made.get("audio"), window, "audio", strength))

    @staticmethod
    def _keep(made: Made, clean: Streams, window: Window) -> None:
        """Put a window's clean tokens (B, N, C), less the appended ones, into the timeline."""
        for name, tokens in zip(("video", "audio"), clean, strict=True):
            if tokens is None:
                continue
            start, end = window.span(name)
            rows = made[name].shape[2]
            part = tokens[:, :(end - start) * rows].unflatten(1, (-1, rows))  # (B, time, rows, C)
            fade_in(made[name][:, start:end], part, window.held_of(name))

    def _latents(self, made: Made, grid: VideoGrid) -> Streams:
        """The timeline of both streams as latents."""
        video = audio = None
        if "video" in made:
            video = tokens_to_video(made["video"].flatten(1, 2), grid)
        if "audio" in made:
            audio = tokens_to_audio(made["audio"].flatten(1, 2), self._engine.audio_latent_channels)
        return video, audio

    def _denoise(self, stage: StagePlan, grid: VideoGrid, states: StatePair, noise: Streams, window: Window,
                 generator: torch.Generator) -> Streams:
        """Clean tokens of a window from its states and their noise."""
        pair = self._plan.timeline.prompt(window, self._job.context)
        stage = replace(stage, guidance=_unfrozen(stage, states))
        transformer = self._engine.use_transformer(stage, _call(states))
        negative = None
        if stage.guidance is not None or stage.solver.uses_uncond:
            negative = self._placed(pair.negative)
        denoiser = Denoiser(
            transformer,
            self._placed(pair.positive),
            negative,
            stage.guidance,
            *states,
            check=self._check,
            identity=_identity(self._plan.conditions),
            easy_cache=self._plan.easy_cache,
        )
        start = map_streams(lambda state, part: state.noised(part, stage.sigmas[0]), states, noise)
        x = solve(
            stage.solver,
            denoiser,
            states,
            x=start,
            sigmas=stage.sigmas,
            generator=generator,
            draw=lambda shape: self._draw(shape, generator),
            on_step=self._step_hook(stage, grid),
        )
        self._done += stage.steps
        return map_streams(lambda state, part: state.exact(part), states, x)

    def _placed(self, context: PromptContext) -> PromptContext:
        """A prompt on the device; the streams' widths differ, so each goes by itself."""
        dtype = self._engine.dtype
        return PromptContext(context.video.to(self._device, dtype), context.audio.to(self._device, dtype))

    def _step_hook(self, stage: StagePlan, grid: VideoGrid) -> Callable[[int, Streams], None] | None:
        on_step, done = self._job.on_step, self._job.before + self._done
        if on_step is None:
            return None

        def hook(step: int, denoised: Streams) -> None:
            picture = None
            if self._previews is not None and denoised[0] is not None:
                self._previews.put(tokens_to_video(denoised[0], grid))
                picture = self._previews.take()
            on_step(StepInfo(
                step=done + step + 1,
                steps=self._plan.steps * self._plan.batch,
                stage=stage.number,
                stages=len(self._plan.recipe.stages),
                sigma=stage.sigmas[step],
                preview=picture,
                stage_step=step + 1,
                stage_steps=stage.steps,
            ))

        return hook


def _call(states: StatePair) -> Tokens:
    """What a call over these states has. Waits for the device."""
    counts, levels, masked = [0, 0], [1, 1], False
    for which, state in enumerate(states):
        if state is not None:
            counts[which] = state.clean.shape[1]
            levels[which] = len(torch.unique(state.mask))
            masked = masked or state.attention is not None
    return Tokens(*counts, (levels[0], levels[1]), masked)


def _identity(conditions: Sequence[Condition]) -> float:
    """Identity guidance of a reference voice; 0: none."""
    for condition in conditions:
        if isinstance(condition, ReferenceVoice):
            return condition.identity
    return 0.0


def _unfrozen(stage: StagePlan, states: StatePair) -> Guidance | None:
    """The stage's guidance without that of frozen streams."""
    frozen = set()
    for name, state in zip(("video", "audio"), states, strict=True):
        if state is not None and state.frozen:
            frozen.add(name)
    return without(stage.guidance, frozen)
