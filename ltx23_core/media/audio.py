"""Sound as the pipeline hands it on."""
from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Audio:
    """A waveform.

    Attributes:
        waveform: (B, 2, samples) float32 on the CPU, in [-1, 1].
        sample_rate: samples a second and channel, in Hz.
    """

    waveform: torch.Tensor
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.waveform.shape[-1] / self.sample_rate
