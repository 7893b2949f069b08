"""What a run is told in words: prompts, encoded."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PromptContext:
    """What the transformer sees of a prompt: (B, 1024, width) a stream; None where the stream is absent."""

    video: Tensor | None
    audio: Tensor | None


@dataclass(frozen=True)
class PromptPair:
    """A prompt and a negative prompt, encoded."""

    positive: PromptContext
    negative: PromptContext
    prompt: str
    negative_prompt: str
