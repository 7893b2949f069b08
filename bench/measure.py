"""How benches measure: medians by device events, ceilings of the same run, kernels by class, one table."""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch.nn.functional import linear

from ltx23_core.ops.attention import attention
from ltx23_core.ops.codes import FP8, product, quantise

Made = TypeVar("Made")

# First match wins; what else there is, is "other".
CLASSES = (
    ("attention", ("fmha", "flash", "sdpa", "attention", "cudnn_generated")),
    ("fused", ("_norm_rope", "_add_norm_modulate", "_gate_heads", "_gelu_tanh", "_quantise", "_scaled", "triton_")),
    ("matmul", ("gemm", "gett", "nvjet", "cutlass", "xmma", "cublas")),
    ("copies", ("memcpy", "copy_kernel", "catarray", "direct_copy")),
    ("norms", ("layer_norm", "rms_norm", "rmsnorm", "reduce_kernel")),
    ("elementwise", ("elementwise",)),
)


def seconds(function: Callable[[], object], repeats: int, warm: int = 2) -> float:
    """Median seconds of a function, by events on a GPU; the first ``warm`` calls are not counted."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def device_seconds(function: Callable[[], object], repeats: int = 5, calls: int = 10) -> float:
    """Median seconds that a function takes on the GPU alone: some calls as one CUDA graph, so the host has no part."""
    function()
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            function()
    return seconds(graph.replay, repeats) / calls


def peaked(function: Callable[[], Made]) -> tuple[Made, float]:
    """What a function gives, and most device memory, GiB, while it runs; 0 without a GPU."""
    if not torch.cuda.is_available():
        return function(), 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    made = function()
    torch.cuda.synchronize()
    return made, torch.cuda.max_memory_allocated() / 2**30


def peak_gib(function: Callable[[], object]) -> float:
    """Most device memory, GiB, while a function runs; 0 without a GPU."""
    return peaked(function)[1]


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """||got - want|| / ||want|| in float64."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def matmul_rate(tokens: int, width: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of (tokens, width) x (width, 4 width), the largest product of a block."""
    x, weight = (torch.randn(shape, device=device, dtype=dtype) for shape in ((tokens, width), (4 * width, width)))
    return 8 * tokens * width * width / seconds(lambda: linear(x, weight), repeats=7)


def codes_rate(tokens: int, width: int, device: torch.device) -> float:
    """As `matmul_rate`, of fp8 codes with a scale for each row."""
    x, weight = (quantise(torch.randn(shape, device=device), FP8) for shape in ((tokens, width), (4 * width, width)))
    scale = weight.scale[:, 0]
    taken = seconds(lambda: product(x, weight.codes, scale, None, torch.bfloat16), repeats=7)
    return 8 * tokens * width * width / taken


def attention_rate(tokens: int, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a self attention with the kernel that is fastest for the device."""
    x = torch.randn(1, tokens, 3, heads, head_dim, device=device, dtype=dtype)
    query, key, value = x.permute(2, 0, 3, 1, 4)
    time_taken = seconds(lambda: attention(query, key, value), repeats=7)
    return 4 * tokens * tokens * heads * head_dim / time_taken


def profiled(function: Callable[[], object], count: int = 25) -> tuple[dict[str, tuple[float, int]],
                                                                        list[tuple[str, float, int]]]:
    """One warm call's kernels: milliseconds and number by class, and name, milliseconds, launches of the longest."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    each: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in found.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.name.lower()
        kind = next((label for label, words in CLASSES if any(word in name for word in words)), "other")
        for sums in (totals[kind], each[event.name[:110]]):
            sums[0] += event.device_time_total / 1e3
            sums[1] += 1
    by_class = sorted(totals.items(), key=lambda item: -item[1][0])
    longest = sorted(each.items(), key=lambda item: -item[1][0])[:count]
    return ({kind: (round(ms, 2), calls) for kind, (ms, calls) in by_class},
            [(name, ms, calls) for name, (ms, calls) in longest])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with three decimals."""
    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
