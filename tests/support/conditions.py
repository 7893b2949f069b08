"""What tests of conditions share: encoders without weights, empty states, clips whose content tells where it went."""
from __future__ import annotations

import torch

from ltx23_core import Audio
from ltx23_core.geometry import audio_latent_length, audio_positions, video_grid, video_positions
from ltx23_core.plan.condition import Clip, StageSetting
from ltx23_core.sampling.state import StreamState

RATE = 16000


class FakeEncoders:
    """Video: mean colour of each latent cell. Audio: each latent holds its own number."""

    dtype = torch.float32

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.pixels: list[torch.Tensor] = []

    def encode_video(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(pixels.shape))
        self.pixels.append(pixels)
        assert pixels.shape[2] % 8 == 1
        cells = torch.nn.functional.avg_pool3d(pixels, (1, 32, 32))
        later = cells[:, :, 1:].unflatten(2, (-1, 8)).mean(3) if cells.shape[2] > 1 else cells[:, :, :0]
        return torch.cat((cells[:, :, :1], later), dim=2)

    def encode_audio(self, audio: Audio) -> torch.Tensor:
        samples = audio.waveform.shape[-1] * RATE // audio.sample_rate
        self.calls.append(tuple(audio.waveform.shape))
        count = -(-(samples // 160 + 1) // 4)
        return torch.arange(count, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 4)


def plain(clip: Clip, encoders: object = None, number: int = 1, shrink: int = 1) -> tuple[tuple, StageSetting]:
    """States of zeros, and the stage."""
    grid = video_grid(clip.width // shrink, clip.height // shrink, clip.frames)
    length = audio_latent_length(clip.frames, clip.fps)
    video = StreamState.from_tokens(torch.zeros(1, grid.tokens, 3), video_positions(grid, clip.fps))
    audio = StreamState.from_tokens(torch.zeros(1, length, 8), audio_positions(length))
    stage = StageSetting(number, grid, length, clip.fps, encoders or FakeEncoders())
    return (video if clip.video else None, audio if clip.audio else None), stage


def frames(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    """Grey frames, frame i at level i / 255."""
    return (torch.arange(count, dtype=torch.uint8)[:, None, None, None]).expand(count, height, width, 3)


def sound(seconds: float, rate: int = RATE, channels: int = 2) -> Audio:
    wave = torch.linspace(-0.5, 0.5, round(seconds * rate)).expand(1, channels, -1)
    return Audio(wave, rate)


CLIP = Clip(64, 64, 25, 24.0)
