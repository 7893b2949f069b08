"""One denoiser: all guidance passes at one sigma, combined into guided x0 predictions (spec/07 §4, 08 §2)."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.transformer.inputs import Pass, Perturbation, StreamInput
from ..models.transformer.model import Transformer
from .guidance import Guidance, GuiderParams, combine
from .latents import Streams, StreamState


@dataclass(frozen=True)
class PromptContext:
    """What the transformer sees of a prompt: (B, 1024, width) a stream; None where the stream is absent."""

    video: Tensor | None
    audio: Tensor | None


def to_denoised(latent: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """x0 = x - t v in float32, in the latent's dtype; timesteps float32, broadcastable to (B, N, 1) (spec/02 §8)."""
    return (latent.float() - velocity.float() * timesteps.float()).to(latent.dtype)


class Denoiser:
    """Guided x0 of both streams from noisy tokens.

    Args:
        transformer: on its device, in its dtype.
        positive, negative: prompt contexts; ``negative`` may be None where nothing uses CFG.
        guidance: None: the conditional pass alone.
        video, audio: states of the streams, or None for an absent one.
        check: called once a block; may raise to interrupt.
    """

    def __init__(self, transformer: Transformer, positive: PromptContext, negative: PromptContext | None,
                 guidance: Guidance | None, video: StreamState | None, audio: StreamState | None,
                 check: Callable[[], None] | None = None) -> None:
        self._transformer, self._check = transformer, check
        self._guidance = guidance or Guidance()
        self._states = (video, audio)
        self._params = tuple(GuiderParams() if state is None else params
                             for state, params in zip(self._states, self._guidance.streams, strict=True))
        self._masks = [None if s is None else s.distinct_mask() for s in self._states]
        dtype = transformer.proj_out.bias.dtype
        positions = (None if s is None else s.positions for s in self._states)
        self._tables = transformer.tables(*positions, dtype, None if video is None else video.attention)
        self._passes = self._plan(positive, negative)

    def _plan(self, positive: PromptContext, negative: PromptContext | None) -> dict[str, Pass]:
        """The passes that the guidance needs, by name."""
        video, audio = self._params
        passes = {"cond": Pass(positive.video, positive.audio)}
        if negative is not None and (video.uses_cfg or audio.uses_cfg):
            passes["uncond"] = Pass(negative.video if self._guidance.video else positive.video,
                                    negative.audio if self._guidance.audio else positive.audio)
        if video.uses_stg or audio.uses_stg:
            skip = (frozenset(p.stg_blocks if p.uses_stg else ()) for p in (video, audio))
            passes["perturbed"] = Pass(positive.video, positive.audio, Perturbation(*skip))
        if None not in self._states and (video.uses_modality or audio.uses_modality):
            passes["modality"] = Pass(positive.video, positive.audio, Perturbation(cross=True))
        return passes

    def _input(self, which: int, x: Tensor | None, sigma: float) -> StreamInput | None:
        state, mask = self._states[which], self._masks[which]
        if x is None or state is None or mask is None:
            return None
        batch = x.shape[0]
        scalar = torch.full((batch,), 0.0 if state.frozen else sigma, device=x.device)
        timesteps = (mask[0] * sigma).expand(batch, -1)
        return StreamInput(x, scalar, timesteps, mask[1])

    def __call__(self, x: Streams, sigma: float, step: int) -> Streams:
        """Guided x0 (before conditioned tokens are held) at one sigma.

        Args:
            x: noisy tokens (B, N, C) of (video, audio), None for an absent stream.
            sigma: in (0, 1].
            step: index of the step in the schedule.
        """
        inputs = [self._input(which, part, sigma) for which, part in enumerate(x)]
        velocities = self._transformer(*inputs, list(self._passes.values()), self._tables, self._check)
        results: list[Tensor | None] = []
        for which, (given, params) in enumerate(zip(inputs, self._params, strict=True)):
            if given is None:
                results.append(None)
                continue
            predictions = {name: to_denoised(given.latent, v[which], given.token_timesteps)
                           for name, v in zip(self._passes, velocities, strict=True)}
            results.append(combine(params, **predictions))
        return results[0], results[1]
