"""Audio VAE: log-mel spectrogram <-> normalised latent (spec/05 §3)."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...config import AudioVAEConfig
from .layers import CausalConv2d, Downsample, LatentStatistics, ResBlock, Upsample, pixel_norm, res_blocks


def _widths(config: AudioVAEConfig) -> list[int]:
    """Channels of each level, the full-size one first."""
    return [config.base_channels * multiplier for multiplier in config.channel_multipliers]


def _middle(width: int) -> nn.ModuleDict:
    """The two blocks at the lowest resolution."""
    return nn.ModuleDict({"block_1": ResBlock(width, width), "block_2": ResBlock(width, width)})


class AudioEncoder(nn.Module):
    """Mel -> latent; each level but the last halves both axes."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        widths, channels = _widths(config), config.base_channels
        self.latent_channels = config.latent_channels
        self.conv_in = CausalConv2d(config.in_channels, channels)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = nn.ModuleDict({"block": res_blocks(channels, width, config.res_blocks)})
            if level + 1 < len(widths):
                stage["downsample"] = Downsample(width)
            self.down.append(stage)
            channels = width
        self.mid = _middle(channels)
        self.conv_out = CausalConv2d(channels, 2 * config.latent_channels)  # means, then log variances
        self.per_channel_statistics = LatentStatistics(config.latent_channels * config.latent_bins)

    def forward(self, mel: Tensor) -> Tensor:
        """Encode to the means, normalised.

        Args:
            mel: (B, 2, T, mel_bins) natural log of magnitudes (`mel.log_mel`), in the parameters' dtype.

        Returns:
            (B, latent_channels, ceil(T / 4), latent_bins).
        """
        h = self.conv_in(mel)
        for stage in self.down:
            for block in stage["block"]:
                h = block(h)
            if "downsample" in stage:
                h = stage["downsample"](h)
        h = self.mid["block_2"](self.mid["block_1"](h))
        moments = self.conv_out(F.silu(pixel_norm(h)))
        return self.per_channel_statistics.normalize(moments[:, :self.latent_channels])


class AudioDecoder(nn.Module):
    """Latent -> mel; levels are stored full-size first and run from the last to the first."""

    def __init__(self, config: AudioVAEConfig) -> None:
        super().__init__()
        widths = _widths(config)
        channels = widths[-1]
        self.conv_in = CausalConv2d(config.latent_channels, channels)
        self.mid = _middle(channels)
        stages = []
        for level, width in reversed(list(enumerate(widths))):
            stage = nn.ModuleDict({"block": res_blocks(channels, width, config.res_blocks + 1)})
            if level > 0:
                stage["upsample"] = Upsample(width)
            stages.insert(0, stage)
            channels = width
        self.up = nn.ModuleList(stages)
        self.conv_out = CausalConv2d(channels, config.out_channels)
        self.per_channel_statistics = LatentStatistics(config.latent_channels * config.latent_bins)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a normalised latent.

        Args:
            latent: (B, latent_channels, T, latent_bins) in the parameters' dtype.

        Returns:
            (B, 2, 4T - 3, mel_bins) log-mel, as `AudioEncoder` takes and `Vocoder` takes.
        """
        h = self.conv_in(self.per_channel_statistics.denormalize(latent))
        h = self.mid["block_2"](self.mid["block_1"](h))
        for stage in reversed(self.up):
            for block in stage["block"]:
                h = block(h)
            if "upsample" in stage:
                h = stage["upsample"](h)
        return self.conv_out(F.silu(pixel_norm(h)))
