"""Masked self attention by rows against one with a bias of N x N numbers: results, time, memory.

    python -m bench.masked            # on a CUDA device, about a minute
    python -m bench.masked --small    # the same code on the CPU at small sizes
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ltx23_core.models.transformer.masked import attend_rows, bias_bytes
from ltx23_core.ops.attention import attention, mask_bias
from ltx23_core.sampling.seen import Seen

HEADS, SIZE = 32, 128
# Tokens of the clip and of its reference: 768x512x121, 1280x704x121, 1920x1088x121 with half and with full size.
SHAPES = ((6_144, 6_144), (14_080, 14_080), (32_640, 8_160), (32_640, 32_640))
DENSE_UP_TO = 45_000  # tokens


def measured(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float, float]:
    """(result, milliseconds, GB beyond what was there); the second of two calls is timed."""
    cuda = device.type == "cuda"
    run()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before, begin = torch.cuda.memory_allocated() if cuda else 0, time.perf_counter()
    made = run()
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    return made, 1e3 * (time.perf_counter() - begin), peak / 1e9


@torch.no_grad()
def main() -> None:
    """Print one line for each shape."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    device = torch.device("cpu" if small else "cuda")
    heads = 2 if small else HEADS
    print("clip+reference   no mask ms   rows ms   GB  stated   dense ms   GB (with its bias)   difference / std")
    for clip, reference in ((700, 300), (1100, 200)) if small else SHAPES:
        count = clip + reference
        seen = Seen.of_clip(clip, clip, device).with_reference(torch.rand(reference, device=device))
        query, key, value = (torch.randn(1, count, heads, SIZE, device=device, dtype=torch.bfloat16).transpose(1, 2)
                             for _ in range(3))
        rows = seen.rows(torch.bfloat16)
        _, plain, _ = measured(lambda q=query, k=key, v=value: attention(q, k, v), device)
        got, by_rows, peak = measured(
            lambda q=query, k=key, v=value, r=rows: attend_rows(attention, q, k, v, r), device)
        stated = bias_bytes(count, 2) / 1e9 + got.numel() * 2 / 1e9
        line = f"{clip:6d}+{reference:6d}  {plain:10.2f} {by_rows:10.2f} {peak:6.2f} {stated:6.2f}"
        if count <= DENSE_UP_TO:
            bias = mask_bias(seen.dense(torch.bfloat16), torch.bfloat16)[:, None]
            want, dense, more = measured(lambda q=query, k=key, v=value, b=bias: attention(q, k, v, b), device)
            apart = float((got.float() - want.float()).abs().max() / want.float().std())
            line += f" {dense:10.2f} {more + bias.numel() * 2 / 1e9:8.2f} {apart:24.2e}"
            del bias, want
        print(line, flush=True)
        del query, key, value, got


if __name__ == "__main__":
    main()
