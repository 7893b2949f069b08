"""How a fresh vocoder begins: with the place in the stereo image carried to its end, and multiplied in there.

The sound of a side is a wave times a gain. A network of few channels learns the wave and leaves the gain: after 10,000
steps a fresh vocoder still made both sides equally loud. But its last activation can multiply: with x + sin(x)^2 / b,
sin(A)^2 - sin(B)^2 = sin(A + B) sin(A - B), so that two channels wave + angle and wave - angle give the product of the
sines. The angle is a linear function of the log-mel: found by least squares, put into the first layer, and carried by
one channel a stage.
"""
from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_world.scene import track
from tools.tiny_world.sound import FRAME
from tools.tiny_world.train import audio

CLIPS, RIDGE = 32, 1e-4
SHARPNESS = 3.0                 # -log b of the last activation
LOUDNESS = 0.83                 # of a product of sines to the world's waves
FEW_WARM = 4                    # frames at the beginning whose mel lacks a past


def angles(clips: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mel (B, 2, K, 64) of random scenes, the angle from the middle to the left (B, K), and where it is heard."""
    scenes = audio.sound_batch(1 << 22, 0, clips, audio.LATENTS / 25)
    mel, _, _ = audio.sounds(scenes, audio.LATENTS, torch.device("cpu"))
    places = track(scenes, (np.arange(mel.shape[2]) + 0.5) * FRAME)
    part = np.clip(places.x / scenes.aspect[:, None], 0, 1)
    heard = torch.from_numpy(places.visible).bool()
    heard[:, :FEW_WARM] = False
    return mel, torch.from_numpy((0.5 - part) * math.pi / 2).float(), heard


def angle_filter(taps: int) -> tuple[Tensor, float]:
    """Weights (128, taps) and bias with which a convolution over a log-mel gives the angle."""
    mel, angle, heard = angles(CLIPS)
    rows = F.pad(mel.permute(0, 1, 3, 2).flatten(1, 2), (taps // 2, taps // 2)).unfold(2, taps, 1)
    rows = rows.permute(0, 2, 1, 3).flatten(2)[heard].double()
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    squares = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1])
    found = torch.linalg.solve(squares.double(), rows.T @ angle[heard].double()).float()
    return found[:-1].view(-1, taps), float(found[-1])


def ramp(up: nn.ConvTranspose1d) -> Tensor:
    """The kernel with which a transposed convolution interpolates: (taps,), every phase of unit sum."""
    taps, rate = up.weight.shape[2], up.stride[0]
    kernel = 1 - (torch.arange(taps) - (taps - 1) / 2).abs() / ((taps + 1) / 2)
    for phase in range(rate):
        kernel[phase::rate] /= kernel[phase::rate].sum()
    return kernel.to(up.weight)


def _stage(generator: nn.Module, stage: int) -> nn.ModuleList:
    return generator.resblocks[stage * generator.kinds:(stage + 1) * generator.kinds]


@torch.no_grad()
def _carry(generator: nn.Module) -> None:
    """The last channel of each stage but the last one holds the angle."""
    weight, bias = angle_filter(generator.conv_pre.weight.shape[2])
    generator.conv_pre.weight[-1], generator.conv_pre.bias[-1] = weight.to(generator.conv_pre.weight), bias
    for stage, up in enumerate(generator.ups[:-1]):
        up.weight[-1], up.weight[:, -1], up.bias[-1] = 0, 0, 0
        up.weight[-1, -1] = ramp(up)
        for block in _stage(generator, stage):
            for first, second in zip(block.convs1, block.convs2, strict=True):
                first.weight[:, -1], second.weight[-1], second.bias[-1] = 0, 0, 0


@torch.no_grad()
def _multiply(generator: nn.Module) -> None:
    """The last stage's channels are wave + angle and wave - angle of both sides, and one constant."""
    up, act, post = generator.ups[-1], generator.act_post.act, generator.conv_post
    wave = up.weight[:, :1].clone()
    wave[-1] = 0
    up.weight[:, :4], up.bias[:] = wave, 0
    for channel, (sign, side) in enumerate(((1, 1), (-1, 1), (1, -1), (-1, -1))):
        up.weight[-1, channel] = ramp(up) * (sign * side / 2)
        up.bias[channel] = sign * math.pi / 8
    up.weight[-1, 4], up.bias[4] = 0, 0.5
    for block in _stage(generator, len(generator.ups) - 1):
        for second in block.convs2:
            second.weight.zero_()
            second.bias.zero_()
    act.alpha.zero_()
    act.beta.fill_(-SHARPNESS)
    small, middle = math.exp(-SHARPNESS), post.weight.shape[2] // 2
    post.weight.zero_()
    for side in (0, 1):
        post.weight[side, 2 * side, middle] = LOUDNESS * small
        post.weight[side, 2 * side + 1, middle] = -LOUDNESS * small
    # what is linear of the activation leaves the angle itself, which the constant takes away
    post.weight[:, 4, middle] = -LOUDNESS * small * math.pi / 4 / (0.5 + math.sin(0.5) ** 2 / small)


def prepare(vocoder: nn.Module) -> None:
    """Change fresh weights of the first stage in place."""
    _carry(vocoder.vocoder)
    _multiply(vocoder.vocoder)


def carried(vocoder: nn.Module) -> dict[str, Tensor]:
    """Name -> mask of the weights that carry the angle; they stay, or learning the wave would wash them out."""
    generator, masks = vocoder.vocoder, {}
    last = len(generator.ups) - 1

    def mark(module: nn.Module, name: str, *places: tuple[slice | int, ...]) -> None:
        for parameter in ("weight", "bias"):
            mask = torch.zeros_like(getattr(module, parameter), dtype=torch.bool)
            for place in places:
                mask[place[:mask.ndim]] = True
            masks[f"{name}.{parameter}"] = mask

    mark(generator.conv_pre, "vocoder.conv_pre", (-1,))
    for stage, up in enumerate(generator.ups):
        mask = torch.zeros_like(up.weight, dtype=torch.bool)
        mask[-1, :4] = stage == last
        if stage < last:
            mask[:, -1] = True
            for number, block in enumerate(_stage(generator, stage)):
                for index, conv in enumerate(block.convs2):
                    mark(conv, f"vocoder.resblocks.{stage * generator.kinds + number}.convs2.{index}", (-1,))
        masks[f"vocoder.ups.{stage}.weight"] = mask
    return masks
