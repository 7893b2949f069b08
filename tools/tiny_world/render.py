"""Pictures of scenes, the same on CPU and GPU: signed distances with one pixel of anti-aliasing."""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tools.tiny_world.scene import BACKGROUNDS, COLOURS, SHAPES, Scenes, frame_times, track

_STAR_TIP, _STAR_NOTCH = 1.2, 0.55       # radii
_TRIANGLE = 0.62                         # radius of the inscribed circle, in radii
_SQUARE = 0.84                           # half a side
_RING = (0.77, 0.23)                     # middle and half width


def distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a shape's edge (negative inside) of points relative to its centre; all in one unit."""
    if shape == "ball":
        return torch.hypot(x, y) - radius
    if shape == "ring":
        return (torch.hypot(x, y) - _RING[0] * radius).abs() - _RING[1] * radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - _SQUARE * radius
    if shape == "triangle":
        slanted = x.abs() * math.cos(math.pi / 6) + y * 0.5
        return torch.maximum(slanted, -y) - _TRIANGLE * radius
    return _star(x, y, radius)


def _star(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Five tips, one upwards: the plane is folded onto half a tip, whose edge is a line."""
    fold = math.pi / 5
    angle = torch.remainder(torch.atan2(x, y) + fold, 2 * fold) - fold
    length = torch.hypot(x, y)
    along, across = length * angle.cos(), length * angle.sin().abs()
    notch = (_STAR_NOTCH * math.cos(fold), _STAR_NOTCH * math.sin(fold))
    dx, dy = notch[0] - _STAR_TIP, notch[1]
    norm = math.hypot(dx, dy)
    return (along - _STAR_TIP * radius) * (dy / norm) - across * (dx / norm)


def cover(shape: str, x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, width: int, height: int) -> Tensor:
    """Share of each pixel that a shape covers.

    Args:
        x, y, radius, angle: (…, 1, 1), centre and size in heights (y upwards), rotation in radians.

    Returns:
        (…, height, width) in [0, 1], float32.
    """
    columns = (torch.arange(width, device=x.device, dtype=torch.float32) + 0.5) / height
    rows = 1 - (torch.arange(height, device=x.device, dtype=torch.float32)[:, None] + 0.5) / height
    dx, dy = columns - x, rows - y
    if shape not in ("ball", "ring"):
        cos, sin = angle.cos(), angle.sin()
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    return (0.5 - distance(shape, dx, dy, radius) * height).clamp_(0, 1)


def render_cover(scenes: Scenes, frames: int, fps: float, width: int, height: int,
                 device: torch.device | str = "cpu") -> Tensor:
    """Share of each pixel that the shape covers in every frame: (B, F, height, width), 0 while it is not there."""
    places = track(scenes, frame_times(frames, fps))
    result = torch.zeros(len(scenes), frames, height, width, device=device)
    for number, name in enumerate(SHAPES):
        chosen = np.flatnonzero(scenes.shape == number)
        if not len(chosen):
            continue
        x, y, radius, angle, visible = (
            torch.from_numpy(values[chosen].astype(np.float32)).to(device)[..., None, None]
            for values in (places.x, places.y, places.radius, places.angle, places.visible))
        rows = torch.from_numpy(chosen).to(device)
        result[rows] = cover(name, x, y, radius, angle, width, height) * visible
    return result


def background(scenes: Scenes, height: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, 1, height, 1) in [0, 1]: the top colour turns into the bottom colour, row by row."""
    grounds = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
    top, bottom = (torch.from_numpy(grounds[index]).to(device) for index in (scenes.top, scenes.bottom))
    share = ((torch.arange(height, device=device) + 0.5) / height).view(1, 1, 1, height, 1)
    return torch.lerp(top.view(-1, 3, 1, 1, 1), bottom.view(-1, 3, 1, 1, 1), share)


def render(scenes: Scenes, frames: int, fps: float, width: int, height: int,
           device: torch.device | str = "cpu") -> Tensor:
    """Videos of scenes: (B, 3, F, height, width) float32 in [0, 1].

    Args:
        scenes: their aspect is expected to be width / height.
        frames: of the clip, from time 0 on.
        fps: frames a second.
        width, height: pixels.
        device: where it is computed.
    """
    alpha = render_cover(scenes, frames, fps, width, height, device)[:, None]
    shades = np.array(list(COLOURS.values()), dtype=np.float32)[scenes.colour]
    colour = torch.from_numpy(shades).to(device).view(-1, 3, 1, 1, 1)
    return torch.lerp(background(scenes, height, device), colour, alpha)
