"""File to device, beside ``load_file`` and the limits that are measured in the same run; and the memory it takes.

Every round measures every way once, in an order that changes from round to round, so that a disk or a host that becomes
slower with time treats all alike. A ratio is taken within a round; what is reported is the median over the rounds. Cold
means that the system was asked to forget the file's pages just before (`posix_fadvise`, DONTNEED).
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[1]
OURS, LIBRARY, BUS = "ours: ranges to device", "safetensors load_file", "limit: pinned memory to device"
BARE = "bare threads: file to pinned buffers to one device tensor"  # ours less everything that makes tensors of it
READERS = ((1, 64 << 20), (1, 8 << 20), (4, 8 << 20), (8, 8 << 20))  # threads, bytes of a request

# Anonymous memory of the process (not mapped files), and memory of the whole machine that is no page cache: the second
# one sees pinned memory too, wherever the driver accounts it. Sampled all the time by a thread.
_MEMORY = """
import json, sys, threading, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from ltx23_core.overlay.bytes.header import read_header
from ltx23_core.weights.reader import read_tensors

def fields(path, *names):
    with open(path) as file:
        table = dict(line.split(":", 1) for line in file)
    return [int(table[name].split()[0]) * 1024 for name in names]

def now():
    total, free, shared, *cache = fields("/proc/meminfo", "MemTotal", "MemFree", "Shmem", "Buffers", "Cached",
                                         "SReclaimable")  # the system counts shared memory as cached
    return {"process": sum(fields("/proc/self/status", "RssAnon", "RssShmem")),
            "machine": total - free + shared - sum(cache)}

device = torch.device(sys.argv[3])
torch.zeros(8 << 20, device=device).sum().item()  # the device's own libraries are there before
refs = read_header(Path(sys.argv[2])).tensors
before, peak, done = now(), now(), threading.Event()

def watch():
    while not done.wait(0.002):
        for key, value in now().items():
            peak[key] = max(peak[key], value)

thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
kept = dict(read_tensors(refs, device, None))
if device.type == "cuda":
    torch.cuda.synchronize()
seconds = time.perf_counter() - start
done.set()
thread.join()
kept_bytes = sum(t.numel() * t.itemsize for t in kept.values()) if device.type == "cpu" else 0
print(json.dumps({"seconds, first load of a process": seconds} | {
    f"{key}: growth in MB at its peak": (peak[key] - before[key] - kept_bytes) / 1e6 for key in peak}))
"""


def drop_cache(path: Path) -> bool:
    """Ask the system to forget a file's pages; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def read_all(path: Path, threads: int, request: int, target: torch.Tensor | None = None) -> None:
    """Read a whole file into reused buffers: threads take one request after the other, from front to back.

    With a target on a device the buffers are pinned, two a thread, and each is copied there while the other is filled.
    """
    numbers, lock, size = count(), threading.Lock(), path.stat().st_size

    def work() -> None:
        buffers = [torch.empty(request, dtype=torch.uint8, pin_memory=target is not None)
                   for _ in range(1 if target is None else 2)]
        copied: list[torch.cuda.Event | None] = [None, None]
        with path.open("rb", buffering=0) as file:
            for turn in count():
                with lock:
                    start = next(numbers) * request
                if start >= size:
                    return
                turn %= len(buffers)
                if copied[turn] is not None:
                    copied[turn].synchronize()
                view, done = memoryview(buffers[turn].numpy())[:size - start], 0
                file.seek(start)
                while done < len(view):
                    done += file.readinto(view[done:])
                if target is not None:
                    target[start:start + done].copy_(buffers[turn][:done], non_blocking=True)
                    copied[turn] = torch.cuda.Event(blocking=True)
                    copied[turn].record()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def reader_name(threads: int, request: int) -> str:
    """What a row of the table is called."""
    return f"limit: {threads} thread{'s' * (threads > 1)}, requests of {request >> 20} MB"


def load_ways(path: Path, device: torch.device) -> dict[str, Callable[[], object]]:
    """The ways to bring a file to a device, and the bare limits of disk (or page cache) and bus."""
    from safetensors.torch import load_file

    from ltx23_core.overlay.bytes.header import read_header
    from ltx23_core.weights.reader import read_tensors

    def load() -> dict[str, torch.Tensor]:
        tensors = load_file(path, device=str(device))
        if device.type == "cpu":  # only mapped so far: read a byte of each page
            for tensor in tensors.values():
                tensor.view(torch.uint8).flatten()[::4096].sum()
        return tensors

    refs = read_header(path).tensors  # an overlay has them already
    ways: dict[str, Callable[[], object]] = {OURS: lambda: dict(read_tensors(refs, device, None)), LIBRARY: load}
    ways |= {reader_name(*reader): lambda reader=reader: read_all(path, *reader) for reader in READERS}
    if device.type == "cuda":
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(host, device=device)
        ways[BUS] = lambda: [target[:n].copy_(host[:n], non_blocking=True) for n in _gigabytes(path.stat().st_size)]
        whole = torch.empty(path.stat().st_size, dtype=torch.uint8, device=device)
        ways[BARE] = lambda: read_all(path, 8, 16 << 20, whole)
    return ways


def _gigabytes(size: int) -> list[int]:
    return [1 << 30] * (size >> 30) + [size % (1 << 30)]


def seconds(function: Callable[[], object]) -> float:
    """Of one call, the device waited for; what it gives is dropped after the clock has stopped."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    del result
    return taken


def rounds(ways: Mapping[str, Callable[[], object]], repeats: int, size: int,
           before: Callable[[], object] = lambda: None) -> list[dict[str, float]]:
    """GB/s of every way, round by round, in turning order."""
    names, results = list(ways), []
    for number in range(repeats):
        turn = number % len(names)
        result = {}
        for name in names[turn:] + names[:turn]:
            before()
            result[name] = size / 1e9 / seconds(ways[name])
        results.append(result)
    return results


def summary(results: list[dict[str, float]], bus: list[float]) -> dict[str, object]:
    """Medians, and ours as a share of the least of the limits of the same round (the best reader, the bus)."""
    limits = [min(max(value for name, value in result.items() if name.startswith("limit")), other)
              for result, other in zip(results, bus, strict=True)]
    figures: dict[str, object] = {f"{name}, GB/s": round(statistics.median(r[name] for r in results), 2)
                                  for name in results[0]}
    others = {"the limit": limits}
    others |= {name: [result[name] for result in results] for name in (LIBRARY, BARE) if name in results[0]}
    for name, values in others.items():
        shares = [result[OURS] / value for result, value in zip(results, values, strict=True)]
        figures[f"ours / {name}, median"] = round(statistics.median(shares), 3)
        figures[f"ours / {name}, each round"] = [round(share, 3) for share in shares]
    return figures


def load_figures(path: Path, repeats: int) -> dict[str, object]:
    """Throughput with the page cache warm and cold, and memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, ways = path.stat().st_size, load_ways(path, device)
    bus = ways.pop(BUS, None)
    for function in ways.values():
        function()  # page cache, allocator, pinned buffers
    copied = [size / 1e9 / seconds(bus) for _ in range(repeats + 1)][1:] if bus else [float("inf")] * repeats
    figures: dict[str, object] = {"warm": summary(rounds(ways, repeats, size), copied)}
    if bus:
        figures["warm"] |= {f"{BUS}, GB/s": round(statistics.median(copied), 1)}
    if drop_cache(path):
        figures["cold"] = summary(rounds(ways, repeats, size, lambda: drop_cache(path)), copied)
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(REPO), str(path), device.type], check=True,
                          capture_output=True, text=True)
    return figures | {"memory beyond page cache and result": json.loads(done.stdout)}
