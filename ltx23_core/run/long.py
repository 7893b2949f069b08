"""Long video: one timeline, sampled window by window, each taking over the end of the one before (picture and sound).

Stage by stage as any recipe; within a stage the windows follow each other. Noise and conditions are those of the whole
timeline, a window takes its part of them. So a timeline of one window is exactly an ordinary run, and whatever can
condition an ordinary run can condition a long one.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..geometry import VideoGrid
from ..plan.latents import Latents
from ..plan.stages import StagePlan
from ..plan.windows import Timeline, Window
from ..sampling.state import StatePair, Streams, StreamState, map_streams
from .engine import Engine
from .resume import Progress, fingerprint
from .stage import Request, StageRunner

WINDOW_SEED = 1_000_003  # a window's own generator: a run that is resumed goes on as if it had never stopped


def fade(held: int, device: torch.device) -> Tensor:
    """Weights (held,) of the new window in the overlap, rising from 0 towards 1."""
    return torch.arange(1, held + 1, device=device, dtype=torch.float32) / (held + 1)


class LongRunner(StageRunner):
    """A `StageRunner` whose stages go window by window."""

    def __init__(self, engine: Engine, request: Request, timeline: Timeline) -> None:
        super().__init__(engine, request)
        self._timeline, resume = timeline, timeline.settings.resume
        settings = replace(request, on_step=None, preview_map=None, cache={})
        self._progress = Progress(resume, "" if resume is None else fingerprint(
            engine.overlay.id, str(engine.dtype), engine.lora_state, settings))
        self._steps *= len(timeline.windows)

    def run(self) -> Latents:
        """Sample; see `StageRunner.run`."""
        latents = super().run()
        self._progress.finish()
        return latents

    def _upscale(self, latent: Tensor) -> Tensor:
        """Window by window: the upscaler's norms see clips of the length that they know, and memory does not grow."""
        whole: Tensor | None = None
        for window in self._timeline.windows:
            part = self._engine.upscale(latent[:, :, slice(*window.video)])
            if whole is None:
                whole = part.new_empty(*part.shape[:2], latent.shape[2], *part.shape[3:])
            _write(whole, part, window.video, window.held[0])
        return whole

    def _stage(self, stage: StagePlan, latents: Streams) -> Streams:
        grid = self._grid(stage)
        states = self._states(stage, grid, latents)
        noise = map_streams(lambda state: self._draw(tuple(state.clean.shape)), states)
        counts = (grid.tokens, self._timeline.windows[-1].audio[1])
        result: Streams = map_streams(lambda state, count: torch.zeros_like(state.clean[:, :count]), states, counts)
        done = self._progress.load(stage.number, result)
        for number, window in enumerate(self._timeline.windows):
            if number < done:
                self._done += len(stage.sigmas) - 1
                if number == 0:
                    self._draw_again(stage, self._index(window, grid, states), states)
                continue
            self._window(stage, grid, window, states, noise, result, number)
            self._progress.save(stage.number, number + 1, result)
        return self._latents(result, grid)

    @staticmethod
    def _index(window: Window, grid: VideoGrid, states: StatePair) -> Streams:
        """Which tokens of the timeline each stream of a window has, int64 (N,)."""
        return (None if states[0] is None else window.video_tokens(grid, states[0].positions),
                None if states[1] is None else window.audio_tokens())

    def _draw_again(self, stage: StagePlan, index: Streams, states: StatePair) -> None:
        """The solver's noise of a first window that is already done: the run's generator goes on after it."""
        for _ in range(stage.solver.noise_draws(stage.sigmas)):
            map_streams(lambda i, state: self._draw((*state.clean.shape[:1], len(i), state.clean.shape[2])), index,
                        states)

    def _window(self, stage: StagePlan, grid: VideoGrid, window: Window, states: StatePair, noise: Streams,
                result: Streams, number: int) -> None:
        """Sample one window into the result."""
        area = grid.height * grid.width
        spans = (tuple(area * latent for latent in window.video), window.audio)
        held = (area * window.held[0], window.held[1])
        index = self._index(window, grid, states)
        own = map_streams(lambda state, i: state.take(i, window.origin), states, index)
        own = map_streams(self._holding, own, result, spans, held)
        drawn = map_streams(lambda part, i: part[:, i.to(part.device)], noise, index)
        generator = self._generator if number == 0 else torch.Generator(self._generator.device).manual_seed(
            (self._request.seed + WINDOW_SEED * number) & ((1 << 63) - 1))
        part = VideoGrid(window.frames, grid.height, grid.width)
        x = self._denoise(stage, part, own, drawn, self._timeline.prompt(window, self._request.context), generator)
        for whole, made, span, overlap, rows in zip(result, x, spans, held, (area, 1), strict=True):
            if made is not None:
                steps = made[:, :span[1] - span[0]].unflatten(1, (-1, rows)).transpose(1, 2)
                timeline = whole.unflatten(1, (-1, rows)).transpose(1, 2)  # (B, rows, time, C), a view
                _write(timeline, steps, (span[0] // rows, span[1] // rows), overlap // rows)

    def _holding(self, state: StreamState, made: Tensor, span: tuple[int, int], held: int) -> StreamState:
        """A window's state whose first tokens are what the window before made."""
        if not held:
            return state
        clean, mask = state.clean.clone(), state.mask.clone()
        clean[:, :held] = made[:, span[0]:span[0] + held]
        mask[:, :held] = mask[:, :held].clamp(max=1.0 - self._timeline.settings.strength)
        return replace(state, clean=clean, mask=mask)


def _write(whole: Tensor, part: Tensor, span: tuple[int, int], held: int) -> None:
    """Put a window's result (B, x, time, …) into the whole's, cross-faded in the overlap."""
    start, end = span
    if held:
        weight = fade(held, whole.device).view(1, 1, held, *[1] * (whole.ndim - 3))
        old, new = whole[:, :, start:start + held].float(), part[:, :, :held].float()
        whole[:, :, start:start + held] = torch.lerp(old, new, weight).to(whole.dtype)
    whole[:, :, start + held:end] = part[:, :, held:]
