"""What this device and its links do under load, measured once when ranks start: the numbers of a plan's estimate."""
from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from ..ops.attention import attention
from .cost import Rates
from .world import Group, World

HEAT = 1.5     # seconds of work first: a card that has rested runs the same kernels a tenth faster
ROUNDS = 3
AT_ONCE = 10   # calls behind each other, so that launching them is no part of the time
SMALL = 4096   # bytes of the smallest exchange
STAGE = 27e-6  # seconds, of an H100: preview forwards of few tokens, recorded as graphs (`bench transformer`)


def measured(world: World, dtype: torch.dtype) -> Rates:
    """Rates that hold for the slowest rank; called by all ranks together.

    Args:
        world: of the run.
        dtype: of activations.
    """
    device, (tokens, width) = world.device, (64, 64)
    if device.type == "cuda":
        tokens, width = 8192, 4096
    x, weight = (torch.randn(size, width, device=device, dtype=dtype) for size in (tokens, 4 * width))
    heads = torch.randn(1, max(width // 128, 1), tokens, min(128, width), device=device, dtype=dtype)
    _heat(lambda: linear(x, weight), device)
    product = 8 * tokens * width ** 2 / seconds(lambda: linear(x, weight), device)
    attended = 4 * tokens ** 2 * width / seconds(lambda: attention(heads, heads, heads), device)
    copied = 2 * x.numel() * x.element_size() / seconds(x.clone, device)
    world.meet()
    link, latency = _exchange(world.all, x)
    found = world.told((product, attended, copied, link, latency))
    slowest = [min(own) for own in zip(*found, strict=True)]
    slowest[-1] = max(own[-1] for own in found)
    return Rates(*slowest, stage=STAGE)


def _heat(work: Callable[[], object], device: torch.device) -> None:
    """Each rank by itself."""
    end = time.perf_counter() + HEAT
    while device.type == "cuda" and time.perf_counter() < end:
        seconds(work, device, rounds=1)


def _exchange(group: Group, x: torch.Tensor) -> tuple[float, float]:
    """Bytes a second that a rank sends in an exchange, and seconds of the smallest one."""
    if group.size == 1:
        return float("inf"), 0.0
    parts = x[:len(x) // group.size * group.size].view(group.size, -1)
    small = parts[:, :max(1, SMALL // parts.element_size() // group.size)].contiguous()
    latency = seconds(lambda: group.all_to_all(small)(), x.device)
    taken = seconds(lambda: group.all_to_all(parts)(), x.device)
    sent = parts.numel() * parts.element_size() * (group.size - 1) / group.size
    return sent / max(taken - latency, taken / 2), latency


def seconds(function: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median seconds of a call among others, the first ones left out."""
    times = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        for _ in range(AT_ONCE):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number or rounds == 1:
            times.append((time.perf_counter() - begin) / AT_ONCE)
    return sorted(times)[len(times) // 2]
