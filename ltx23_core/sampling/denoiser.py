"""One denoiser: all guidance passes at one sigma, combined into guided x0 predictions (spec/07 §4, 08 §2)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.transformer.inputs import STREAMS, Pass, Perturbation, StreamInput
from ..models.transformer.model import Transformer, Velocities
from ..models.transformer.nag import NagContext
from ..plan.guidance import Guidance
from ..plan.guider import GuiderParams
from ..plan.latents import PromptContext
from .combine import RunningDifference, combine
from .easy_cache import EasyCache
from .state import Streams, StreamState, to_denoised
from .voice import VoiceGuidance

Params = dict[str, GuiderParams]


class Prediction(NamedTuple):
    """x0 of one stream: guided, and of the unconditioned pass (None where that was not asked for, or no stream is)."""

    guided: Tensor | None
    uncond: Tensor | None


class StreamRun:
    """All that is one stream's in one run.

    Attributes:
        state: before sampling.
        last: prediction, which a skipped step repeats.
    """

    def __init__(self, state: StreamState) -> None:
        self.state = state
        self.last: Prediction | None = None
        self._levels, self._index = state.distinct_mask()
        self._running = RunningDifference()

    def skips(self, params: GuiderParams, step: int) -> bool:
        """Whether a step repeats the last prediction."""
        return self.last is not None and params.skips(step)

    def input(self, x: Tensor, sigma: float, enabled: bool) -> StreamInput:
        """Noisy tokens (B, N, C) as the transformer takes them."""
        batch = x.shape[0]
        own_sigma = 0.0 if self.state.frozen else sigma
        scalar = torch.full((batch,), own_sigma, device=x.device)
        return StreamInput(x, scalar, (self._levels * sigma).expand(batch, -1), self._index, enabled)

    def keep(self, x: Tensor, uncond: bool) -> None:
        """Predict the tokens themselves: those of a frozen stream, whose timestep is 0."""
        self.last = Prediction(x, None)
        if uncond:
            self.last = Prediction(x, x)

    def combine(self, params: GuiderParams, given: StreamInput, velocities: dict[str, Tensor | None],
                uncond: bool, voiced: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Predict from what the passes gave, by name; None: the pass did not compute this stream.

        `voiced` adds to (guided, conditional) x0 what a reference voice asks for.
        """
        found: dict[str, Tensor | None] = dict.fromkeys(velocities)
        for name, value in velocities.items():
            if value is not None:
                found[name] = to_denoised(given.latent, value, given.token_timesteps)
        guided = voiced(combine(params, **found, running=self._running), found["cond"])
        self.last = Prediction(guided, found["uncond"] if uncond else None)


class Denoiser:
    """Guided x0 of both streams from noisy tokens; remembers the last results and differences of its run.

    Args:
        transformer: on its device, in its dtype.
        positive, negative: prompt contexts; ``negative`` may be None where nothing uses CFG, CFG++ or NAG
            (`RequestError` otherwise).
        guidance: None: the conditional pass alone.
        video, audio: states of the streams, or None for an absent one.
        check: called once a block; may raise to interrupt.
        identity: scale of the guidance towards a reference voice, whose tokens end the audio stream (spec/10); 0: off.
        easy_cache: threshold of `easy_cache.EasyCache`; 0: every call is made.
    """

    def __init__(self, transformer: Transformer, positive: PromptContext, negative: PromptContext | None,
                 guidance: Guidance | None, video: StreamState | None, audio: StreamState | None,
                 check: Callable[[], None] | None = None, identity: float = 0.0, easy_cache: float = 0.0) -> None:
        self.cache = EasyCache(easy_cache, check) if easy_cache else None
        self._transformer, self._check = transformer, check
        self._guidance = (guidance or Guidance()).resolved(None)
        self._positive, self._negative = positive, negative
        self._runs: dict[str, StreamRun] = {}
        positions: dict[str, Tensor] = {}
        for name, state in zip(STREAMS, (video, audio), strict=True):
            if state is not None:
                self._runs[name] = StreamRun(state)
                positions[name] = state.positions
        dtype, rows = transformer.proj_out.bias.dtype, ()
        if video is not None and video.attention is not None:
            rows = video.attention.rows(dtype)
        self._tables = transformer.tables(positions.get("video"), positions.get("audio"), dtype, rows)
        self._voice: VoiceGuidance | None = None
        if identity and audio is not None and audio.clip_tokens < audio.positions.shape[2]:
            self._voice = VoiceGuidance(transformer, identity, audio, self._tables)

    def __call__(self, x: Streams, sigma: float, step: int) -> Streams:
        """Guided x0 (before conditioned tokens are held) at one sigma.

        Args:
            x: noisy tokens (B, N, C) of (video, audio), None for an absent stream.
            sigma: in (0, 1].
            step: index of the step in the schedule, by which `GuiderParams.skip_step` counts.
        """
        return self._evaluate(x, sigma, step, uncond=False)[0]

    def with_uncond(self, x: Streams, sigma: float, step: int) -> tuple[Streams, Streams]:
        """(guided x0, x0 of the unconditioned pass), which runs also where no stream uses CFG."""
        return self._evaluate(x, sigma, step, uncond=True)

    def _evaluate(self, x: Streams, sigma: float, step: int, uncond: bool) -> tuple[Streams, Streams]:
        params = dict(zip(STREAMS, self._guidance.at(sigma), strict=True))
        fresh: list[str] = []
        inputs: dict[str, StreamInput] = {}
        for name, part in zip(STREAMS, x, strict=True):
            if part is not None:
                run = self._runs[name]
                if not run.skips(params[name], step):
                    fresh.append(name)
                inputs[name] = run.input(part, sigma, name in fresh)
        moving = [name for name in fresh if not self._runs[name].state.frozen]
        # Without a stream that moves there is nothing to ask the transformer.
        if moving:
            passes = self._plan(params, moving, uncond)
            named = self._velocities(inputs, passes)
            voiced = self._voiced(inputs, passes["cond"])
        for name in fresh:
            if name in moving:
                self._runs[name].combine(params[name], inputs[name], named[name], uncond, voiced(name))
            else:
                self._runs[name].keep(inputs[name].latent, uncond)
        made = dict.fromkeys(STREAMS, Prediction(None, None))
        for name in inputs:
            made[name] = self._runs[name].last
        video, audio = made["video"], made["audio"]
        return (video.guided, audio.guided), (video.uncond, audio.uncond)

    def _velocities(self, inputs: dict[str, StreamInput],
                    passes: dict[str, Pass]) -> dict[str, dict[str, Tensor | None]]:
        """What each pass gives for each stream: stream -> pass -> velocity. A stream may be context only."""
        def model() -> list[Velocities]:
            return self._transformer(inputs.get("video"), inputs.get("audio"), list(passes.values()),
                                     self._tables, self._check)

        if self.cache is None:
            made = model()
        else:
            asked = tuple((name, each.reads) for name, each in passes.items())
            moving = tuple(name for name, each in inputs.items() if each.enabled)
            made = self.cache(inputs, (asked, moving), model)
        named: dict[str, dict[str, Tensor | None]] = {"video": {}, "audio": {}}
        for name, (video, audio) in zip(passes, made, strict=True):
            named["video"][name] = video
            named["audio"][name] = audio
        return named

    def _voiced(self, inputs: dict[str, StreamInput],
                cond: Pass) -> Callable[[str], Callable[[Tensor, Tensor], Tensor]]:
        """By stream: what a reference voice adds to its (guided, conditional) x0; without a voice nothing."""
        voice = self._voice
        plain = voice.without(inputs, cond, self._check) if voice else {}

        def of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
            if name not in plain:
                return lambda guided, _: guided
            return lambda guided, conditional: voice.applied(guided, conditional, plain[name])

        return of

    def _plan(self, params: Params, moving: list[str], uncond: bool) -> dict[str, Pass]:
        """The passes that the streams which are computed need, by name."""
        positive, used = self._positive, {name: params[name] for name in moving}
        nags = self._nag(params, "video"), self._nag(params, "audio")

        def conditional(perturbation: Perturbation, reads: frozenset[str]) -> Pass:
            return Pass(positive.video, positive.audio, perturbation, nag=nags, reads=reads)

        def readers(uses: Callable[[GuiderParams], bool]) -> frozenset[str]:
            return frozenset(name for name, own in used.items() if uses(own))

        passes = {"cond": conditional(Perturbation(), frozenset(used))}
        guided = frozenset(used) if uncond else readers(lambda own: own.uses_cfg)
        if guided:
            passes["uncond"] = replace(self._unconditioned(), reads=guided)
        perturbed = readers(lambda own: own.uses_stg)
        if perturbed:
            blocks = _skipped_blocks(params["video"]), _skipped_blocks(params["audio"])
            passes["perturbed"] = conditional(Perturbation(*blocks), perturbed)
        apart = readers(lambda own: own.uses_modality)
        if len(self._runs) == len(STREAMS) and apart:
            passes["modality"] = conditional(Perturbation(cross=True), apart)
        return passes

    def _unconditioned(self) -> Pass:
        """Negative context of guided streams; of both where no stream is guided and CFG++ asks all the same."""
        guidance, negative = self._guidance, self._needed_negative("the unconditioned pass")
        nothing = guidance == Guidance()
        video, audio = self._positive.video, self._positive.audio
        if guidance.video or nothing:
            video = negative.video
        if guidance.audio or nothing:
            audio = negative.audio
        return Pass(video, audio)

    def _needed_negative(self, purpose: str) -> PromptContext:
        if self._negative is None:
            raise RequestError(f"{purpose} was asked for without a negative prompt",
                               "both contexts of a prompt", "Give the denoiser the negative context too.")
        return self._negative

    def _nag(self, params: Params, stream: str) -> NagContext | None:
        nag = params[stream].nag
        context = nag and getattr(self._needed_negative("NAG"), stream)
        if context is None:
            return None
        return NagContext(nag, context)


def _skipped_blocks(params: GuiderParams) -> frozenset[int]:
    """Blocks whose self attention of a stream its perturbed pass skips."""
    if not params.uses_stg:
        return frozenset()
    return frozenset(params.stg_blocks)
