"""One denoiser: all guidance passes at one sigma, combined into guided x0 predictions (spec/07 §4, 08 §2)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.transformer.inputs import STREAMS, Pass, Perturbation, StreamInput
from ..models.transformer.model import Transformer
from ..models.transformer.nag import NagContext
from ..plan.guidance import Guidance
from ..plan.guider import GuiderParams
from ..plan.latents import PromptContext
from .combine import RunningDifference, combine
from .state import Streams, StreamState

ParamsPair = tuple[GuiderParams, GuiderParams]


def to_denoised(latent: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """x0 = x - t v in float32, in the latent's dtype; timesteps float32, broadcastable to (B, N, 1) (spec/02 §8)."""
    return (latent.float() - velocity.float() * timesteps.float()).to(latent.dtype)


class Prediction(NamedTuple):
    """x0 of one stream: guided, and of the unconditioned pass (None where that was not asked for)."""

    guided: Tensor
    uncond: Tensor | None


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
    """

    def __init__(self, transformer: Transformer, positive: PromptContext, negative: PromptContext | None,
                 guidance: Guidance | None, video: StreamState | None, audio: StreamState | None,
                 check: Callable[[], None] | None = None, identity: float = 0.0) -> None:
        self._transformer, self._check = transformer, check
        self._guidance = (guidance or Guidance()).resolved(None)
        self._positive, self._negative = positive, negative
        self._states = (video, audio)
        self._masks = [None if s is None else s.distinct_mask() for s in self._states]
        self._running = (RunningDifference(), RunningDifference())
        self._last: list[Prediction | None] = [None, None]
        dtype = transformer.proj_out.bias.dtype
        positions = (None if s is None else s.positions for s in self._states)
        seen = None if video is None else video.attention
        self._tables = transformer.tables(*positions, dtype, None if seen is None else seen.dense(dtype))
        self._identity, self._without_voice = identity, None
        if identity and audio is not None and audio.clip_tokens < audio.positions.shape[2]:
            own = audio.positions[:, :, :audio.clip_tokens]
            video_tables, _ = self._tables
            self._without_voice = video_tables, transformer.tables(None, own, dtype, None)[1]

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
        params = self._guidance.at(sigma)
        present = [part is not None for part in x]
        skipped = [last is not None and own.skips(step) for own, last in zip(params, self._last, strict=True)]
        # A frozen stream has timestep 0, so its x0 is x: alone it needs no forward.
        moving = [here and not skip and not state.frozen
                  for here, skip, state in zip(present, skipped, self._states, strict=True)]
        if any(moving):
            predictions = self._forward(x, sigma, params, [not skip for skip in skipped], moving, uncond)
        else:
            predictions = [None if part is None else last if skip else Prediction(part, part if uncond else None)
                           for part, skip, last in zip(x, skipped, self._last, strict=True)]
        self._last = predictions
        video, audio = ((None, None) if found is None else found for found in predictions)
        return (video[0], audio[0]), (video[1], audio[1])

    def _forward(self, x: Streams, sigma: float, params: ParamsPair, enabled: list[bool], moving: list[bool],
                 uncond: bool) -> list[Prediction | None]:
        """Run the passes; a stream that is not enabled is context only and keeps its last prediction."""
        passes = self._plan(params, moving, uncond)
        inputs = [self._input(which, part, sigma, enabled[which]) for which, part in enumerate(x)]
        velocities = self._transformer(*inputs, list(passes.values()), self._tables, self._check)
        plain = self._plain_voice(inputs, passes)
        results = list(self._last)
        for which, given in enumerate(inputs):
            if given is not None and given.enabled and not moving[which]:  # frozen: its timestep is 0
                results[which] = Prediction(given.latent, given.latent if uncond else None)
            elif given is not None and given.enabled:
                named = {name: None if v[which] is None else to_denoised(given.latent, v[which], given.token_timesteps)
                         for name, v in zip(passes, velocities, strict=True)}
                guided = combine(params[which], **named, running=self._running[which])
                guided = guided if plain is None else self._towards_voice(guided, named["cond"], plain[which])
                results[which] = Prediction(guided, named["uncond"] if uncond else None)
        return results

    def _plain_voice(self, inputs: list[StreamInput | None], passes: dict[str, Pass]) -> Streams | None:
        """x0 of the conditional pass without the reference voice, (video, audio); None where nothing asks for it."""
        if self._without_voice is None:
            return None
        video, audio = inputs
        count = self._states[1].clip_tokens
        index = None if audio.index is None else audio.index[:count]
        short = replace(audio, latent=audio.latent[:, :count], index=index)
        [velocities] = self._transformer(video, short, [passes["cond"]], self._without_voice, self._check)
        found = (None if given is None or v is None else to_denoised(given.latent, v, given.token_timesteps)
                 for given, v in zip((video, short), velocities, strict=True))
        return tuple(found)

    def _towards_voice(self, guided: Tensor, cond: Tensor, plain: Tensor | None) -> Tensor:
        """The guided x0 and so many times what the voice changed; the voice's own tokens are held anyway."""
        if plain is None:
            return guided
        difference = self._identity * (cond[:, :plain.shape[1]].float() - plain.float())
        moved = guided.float()
        moved[:, :plain.shape[1]] += difference
        return moved.to(guided.dtype)

    def _plan(self, params: ParamsPair, moving: list[bool], uncond: bool) -> dict[str, Pass]:
        """The passes that the streams which are computed need, by name."""
        positive, (video, audio) = self._positive, params
        moves = dict(zip(STREAMS, moving, strict=True))
        used = {name: own for name, own in zip(STREAMS, params, strict=True) if moves[name]}
        nags = (self._nag(video, "video"), self._nag(audio, "audio"))

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
            passes["perturbed"] = conditional(Perturbation(*(
                frozenset(own.stg_blocks if own.uses_stg else ()) for own in params)), perturbed)
        apart = readers(lambda own: own.uses_modality)
        if None not in self._states and apart:
            passes["modality"] = conditional(Perturbation(cross=True), apart)
        return passes

    def _unconditioned(self) -> Pass:
        """Negative context of guided streams; of both where no stream is guided and CFG++ asks all the same."""
        guidance, positive, negative = self._guidance, self._positive, self._needed_negative("the unconditioned pass")
        nothing = guidance == Guidance()
        return Pass(negative.video if guidance.video or nothing else positive.video,
                    negative.audio if guidance.audio or nothing else positive.audio)

    def _needed_negative(self, purpose: str) -> PromptContext:
        if self._negative is None:
            raise RequestError(f"{purpose} was asked for without a negative prompt", "both contexts of a prompt",
                               "Give the denoiser the negative context too.")
        return self._negative

    def _nag(self, params: GuiderParams, stream: str) -> NagContext | None:
        context = params.nag and getattr(self._needed_negative("NAG"), stream)
        return None if context is None else NagContext(params.nag, context)

    def _input(self, which: int, x: Tensor | None, sigma: float, enabled: bool) -> StreamInput | None:
        state, mask = self._states[which], self._masks[which]
        if x is None or state is None or mask is None:
            return None
        batch = x.shape[0]
        scalar = torch.full((batch,), 0.0 if state.frozen else sigma, device=x.device)
        timesteps = (mask[0] * sigma).expand(batch, -1)
        return StreamInput(x, scalar, timesteps, mask[1], enabled)
