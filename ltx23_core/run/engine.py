"""What a runner asks of whoever holds the weights: the pipeline, or a worker's part of one."""
from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..media.audio import Audio
from ..plan.decide import Decision
from ..plan.latents import PromptPair
from ..plan.stages import StagePlan
from ..plan.windows import Tokens
from .preview import LatentToRGB


class Place(Protocol):
    """Where a run computes."""

    device: torch.device

    def check(self) -> None:
        """Raise if the run is to end; called often."""


class Described(Protocol):
    """The overlay: its id stands for all weights."""

    id: str


class Engine(Protocol):
    """Stages of a run by name; each call makes sure that what it needs is on the device."""

    residency: Place
    overlay: Described
    dtype: torch.dtype  # of latents
    transformer_config: TransformerConfig
    audio_latent_channels: int
    lora_state: tuple[object, ...]

    def encode(self, prompt: str, negative_prompt: str | None = None) -> PromptPair:
        """A prompt and its negative, encoded; None: the default list."""

    def memory_line(self, decision: Decision) -> str:
        """One line: what of a run will be streamed, how its clip will be decoded, and the peak."""

    def use_transformer(self, stage: StagePlan, call: Tokens) -> torch.nn.Module:
        """The transformer on the device with a stage's LoRAs, and room for a call."""

    def upscale(self, latent: Tensor, kind: str = "x2") -> Tensor:
        """A video latent (B, C, F', H', W') at the size of the next stage."""

    def encode_video(self, pixels: Tensor) -> Tensor:
        """(1, 3, F, H, W) in [-1, 1] -> normalised latent (1, C, F', H / 32, W / 32) on the device."""

    def encode_audio(self, audio: Audio) -> Tensor:
        """Sound -> latent (B, C, T, bins) on the device."""

    def preview_map(self) -> LatentToRGB:
        """The latent-to-RGB map of this VAE."""
