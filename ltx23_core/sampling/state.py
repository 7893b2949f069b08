"""Latents <-> tokens, and the state of one stream while it is sampled (spec/00 §3, 07 §1, §3, §8).

Tokens and latents always have their memory in the order of their axes. A transposed view holds the same numbers, but
products and sums over it round otherwise, so that two ways to one result would differ in the last bits.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..geometry import VideoGrid
from .seen import Seen

MASK_LEVELS = 16
Kind = TypeVar("Kind")

Streams = tuple["Tensor | None", "Tensor | None"]
"""(video, audio) tensors; None for an absent stream."""


def video_to_tokens(latent: Tensor) -> Tensor:
    """(B, C, F', H', W') -> (B, F' H' W', C), contiguous; order frame, row, column."""
    return rearrange(latent, "b c f h w -> b (f h w) c").contiguous()


def tokens_to_video(tokens: Tensor, grid: VideoGrid) -> Tensor:
    """(B, N >= grid.tokens, C) -> (B, C, F', H', W'), contiguous; appended tokens are dropped."""
    sizes = {"f": grid.frames, "h": grid.height, "w": grid.width}
    return rearrange(tokens[:, :grid.tokens], "b (f h w) c -> b c f h w", **sizes).contiguous()


def audio_to_tokens(latent: Tensor) -> Tensor:
    """(B, C, T, bins) -> (B, T, C bins), contiguous, channel-major."""
    return rearrange(latent, "b c t bins -> b t (c bins)").contiguous()


def tokens_to_audio(tokens: Tensor, channels: int) -> Tensor:
    """(B, T, channels * bins) -> (B, channels, T, bins), contiguous."""
    return rearrange(tokens, "b t (c bins) -> b c t bins", c=channels).contiguous()


def fit_latent_length(latent: Tensor, frames: int) -> Tensor:
    """Cut, or pad with zeros behind, the time axis of an audio latent (B, C, T, bins) to exactly ``frames``."""
    return functional.pad(latent[:, :, :frames], (0, 0, 0, max(0, frames - latent.shape[2])))


def if_there(function: Callable[..., Kind], *parts: object) -> Kind | None:
    """A function of some parts; None where the first of them is None."""
    if parts[0] is None:
        return None
    return function(*parts)


def to_denoised(latent: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
    """x0 = x - t v in float32, in the latent's dtype; timesteps float32, broadcastable to (B, N, 1) (spec/02 §8)."""
    return (latent.float() - velocity.float() * timesteps.float()).to(latent.dtype)


def map_streams(function: Callable[..., Tensor], *streams: Streams) -> Streams:
    """Apply a function of tensors to each stream that is there."""
    video, audio = zip(*streams, strict=True)
    return if_there(function, *video), if_there(function, *audio)


@dataclass(frozen=True)
class StreamState:
    """One stream before sampling.

    Attributes:
        initial: (B, N, C) what noise is mixed with.
        clean: (B, N, C) what conditioned tokens are held at.
        mask: float32 (B, N, 1); 1 generates a token, 0 keeps its clean value.
        positions: float32 (B, axes, N, 2), [start, end) of each token.
        frozen: the stream is context only: its sigma is 0 (spec/07 §1).
        attention: weights in [0, 1] of the self attention between tokens; None: all 1.
        start_mask: float32 (B, N, 1), takes the mask's place where the start is mixed; None: `mask` itself. Retake
            starts a frozen stream from noise (spec: goldens' README).
    """

    initial: Tensor
    clean: Tensor
    mask: Tensor
    positions: Tensor
    frozen: bool = False
    attention: Seen | None = None
    start_mask: Tensor | None = None

    @classmethod
    def from_tokens(cls, tokens: Tensor, positions: Tensor) -> StreamState:
        """A state without conditions; the clean tokens start as a copy of the initial ones."""
        tokens = tokens.contiguous()
        mask = torch.ones(*tokens.shape[:2], 1, device=tokens.device)
        return cls(tokens, tokens, mask, positions.to(tokens.device))

    def replaced(self, tokens: Tensor, start: int, strength: float | Tensor) -> StreamState:
        """Hold tokens [start, start + n) at given clean values, mask 1 - strength (latent replace).

        Args:
            tokens: (B, n, C).
            start: first token.
            strength: 0 to 1, one number, or float32 (n, 1) for each token its own.
        """
        end = start + tokens.shape[1]
        clean, mask = self.clean.clone(), self.mask.clone()
        clean[:, start:end] = tokens.to(clean)
        mask[:, start:end] = 1.0 - strength
        return replace(self, clean=clean, mask=mask)

    def appended(self, tokens: Tensor, positions: Tensor, strength: float) -> StreamState:
        """Append condition tokens: initial latent 0, mask 1 - strength rounded to the latent's dtype (spec/07 §8).

        Where attention is masked already, the new tokens see all others and are seen by them.
        """
        tokens = tokens.to(self.clean)
        positions = positions.to(self.positions)
        batch, new, _ = tokens.shape
        mask = tokens.new_full((batch, new, 1), 1.0 - strength).float()

        def behind(values: Tensor, more: Tensor) -> Tensor:
            return torch.cat((values, more), dim=1)

        return replace(
            self,
            initial=behind(self.initial, torch.zeros_like(tokens)),
            clean=behind(self.clean, tokens),
            mask=behind(self.mask, mask),
            start_mask=if_there(behind, self.start_mask, mask),
            attention=if_there(lambda seen: seen.with_others(new), self.attention),
            positions=torch.cat((self.positions, positions), dim=2),
        )

    def take(self, index: Tensor, seconds: float) -> StreamState:
        """Some of the tokens, in a timeline that begins later.

        Args:
            index: int64 (n,) tokens to keep, in order.
            seconds: what is subtracted from their positions in time.
        """
        index = index.to(self.clean.device)
        positions = self.positions[:, :, index].clone()
        before = positions[:, 0, :, 1:] < 0  # a reference voice stays where it is: before the clip
        positions[:, 0] -= torch.where(before, 0.0, seconds)
        return replace(
            self,
            initial=self.initial[:, index],
            clean=self.clean[:, index],
            mask=self.mask[:, index],
            start_mask=if_there(lambda mask: mask[:, index], self.start_mask),
            attention=if_there(lambda seen: seen.take(index), self.attention),
            positions=positions,
        )

    def noised(self, noise: Tensor, scale: float) -> Tensor:
        """Start of sampling: two float32 lerps, then the latent's dtype (spec/07 §3).

        Args:
            noise: (B, N, C) standard normal, in the latent's dtype.
            scale: first sigma of the schedule.
        """
        mask = self.start_mask
        if mask is None:
            mask = self.mask
        mixed = torch.lerp(self.initial.float(), noise.float(), scale)
        return torch.lerp(self.clean.float(), mixed, mask).to(self.initial.dtype)

    @property
    def clip_tokens(self) -> int:
        """Tokens without a reference voice, which stands last, at times below 0. Waits for the device."""
        return int((self.positions[0, 0, :, 1] >= 0).sum())

    def blend(self, x: Tensor) -> Tensor:
        """Hold conditioned tokens: x mask + clean (1 - mask) in float32, in x's dtype."""
        held = x.float() * self.mask + self.clean.float() * (1 - self.mask)
        return held.to(x.dtype)

    def exact(self, x: Tensor) -> Tensor:
        """The result with every wholly held token (mask 0) at its clean value, bit for bit.

        Such tokens are there already, up to the rounding of the last step where they started from noise.
        """
        return torch.where(self.mask == 0, self.clean.to(x.dtype), x)

    def with_few_levels(self) -> StreamState:
        """The same with at most `MASK_LEVELS` mask values, so that a step computes AdaLN for few timesteps.

        A soft mask with more of them is rounded to fifteenths: 0 and 1 stay themselves, and no value moves by more
        than 1/30. Waits for the device once.
        """
        if len(torch.unique(self.mask)) <= MASK_LEVELS:
            return self
        return replace(self, mask=(self.mask * (MASK_LEVELS - 1)).round() / (MASK_LEVELS - 1))

    def distinct_mask(self) -> tuple[Tensor, Tensor | None]:
        """Distinct mask values (U,) and each token's index into them (N,), None where there is one value.

        Waits for the device once; call it before the loop.
        """
        values, index = torch.unique(self.mask[0, :, 0], return_inverse=True)
        if len(values) == 1:
            return values, None
        return values, index


StatePair = tuple["StreamState | None", "StreamState | None"]
"""(video, audio) states; None for an absent stream."""


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device,
               dtype: torch.dtype) -> Tensor:
    """Standard normal noise of a token shape, drawn where the generator lives (spec/07 §3)."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)
