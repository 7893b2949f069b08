"""Overlay figures: materialise 46 GB beside the repack way; file to device beside load_file and the limits.

    python -m bench overlay [--folder DIR] [--load-gb 2] [--repack-gb 1] [--checkpoint FILE] [--out FILE]

The 46 GB file has the true header and a hole behind it (sparse): materialising reads headers only, so the figure is
that of a real file. Repacking is what sglang's materialiser does (load the transformer's tensors into one dict,
save_file), done honestly on a file that fits, and extrapolated by bytes, which is said in the table.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .generate_weights import DTYPES, header_bytes, manifest_22b, random_tensor

REPO = Path(__file__).resolve().parents[1]
TRANSFORMER = "model.diffusion_model."

PEAK = """
def peak():  # not getrusage: its peak is inherited from the process that started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
"""

_MATERIALISE = PEAK + """
import json, os, sys, time
import torch  # not part of the figure: every user of the result has it loaded
sys.path.insert(0, sys.argv[1])
from ltx23_core.overlay import materialize
before = peak()
start = time.perf_counter()
overlay = materialize(sys.argv[2], output=sys.argv[3])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "rss_mb": peak() - before,
                  "written_mb": os.path.getsize(sys.argv[3]) / 1e6, "tensors": sum(
                      len(entry.tensors) for entry in overlay.components.values())}))
"""

_REPACK = PEAK + """
import json, os, sys, time
import torch
from safetensors import safe_open
from safetensors.torch import save_file
before = peak()
start = time.perf_counter()
with safe_open(sys.argv[1], framework="pt") as file:
    tensors = {k.removeprefix("model.diffusion_model."): file.get_tensor(k) for k in file.keys()
               if k.startswith("model.diffusion_model.")}
save_file(tensors, sys.argv[2])
os.sync()
print(json.dumps({"seconds": time.perf_counter() - start, "written_mb": os.path.getsize(sys.argv[2]) / 1e6,
                  "rss_mb": peak() - before}))
"""


def in_process(code: str, *arguments: object) -> dict[str, float]:
    """Run a snippet in a fresh process and read its JSON line: memory is then its own."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True,
                          text=True)
    return json.loads(done.stdout.splitlines()[-1])


def sparse_monolith(path: Path) -> int:
    """The 22B checkpoint's true header with a hole behind it; returns the file's length."""
    header, size = header_bytes(*manifest_22b())
    with path.open("wb") as file:
        file.write(header)
    os.truncate(path, len(header) + size)
    return len(header) + size


def real_part(path: Path, gigabytes: float) -> int:
    """A file of true transformer tensors (random bf16) of about this size; returns its bytes."""
    layout, size = {}, 0
    for name, (dtype, shape) in manifest_22b()[0].items():
        if name.startswith(TRANSFORMER) and size < gigabytes * 1e9:
            layout[name] = (dtype, shape)
            size = header_bytes(layout)[1]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with path.open("wb") as file:
        file.write(header_bytes(layout)[0])
        for name, (dtype, shape) in layout.items():
            tensor = random_tensor(name, shape, DTYPES[dtype], device)
            file.write(memoryview(tensor.view(torch.uint8).cpu().numpy().reshape(-1)))
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def drop_cache(path: Path) -> bool:
    """Ask the system to forget a file's pages; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed(function: Callable[[], object], repeats: int, before: Callable[[], object] | None = None) -> float:
    """Median seconds of a function, the device waited for."""
    times = []
    for _ in range(repeats):
        if before is not None:
            before()
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        del result
    return statistics.median(times)


def load_ways(path: Path, device: torch.device) -> dict[str, Callable[[], object]]:
    """The ways to bring a file to a device, and the bare limits of disk and bus."""
    from safetensors.torch import load_file

    from ltx23_core.overlay.header import read_header
    from ltx23_core.weights import read_tensors

    def read_all() -> None:
        buffer = bytearray(64 << 20)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def load() -> dict[str, torch.Tensor]:
        tensors = load_file(path, device=str(device))
        if device.type == "cpu":  # only mapped so far: read a byte of each page
            for tensor in tensors.values():
                tensor.view(torch.uint8).flatten()[::4096].sum()
        return tensors

    ways = {"ours: ranges to device": lambda: dict(read_tensors(read_header(path).tensors, device, None)),
            "safetensors load_file": load,
            "limit: read(2) into one buffer": read_all}
    if device.type == "cuda":
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(host, device=device)
        rounds = max(1, path.stat().st_size >> 30)
        ways["limit: pinned memory to device"] = lambda: [target.copy_(host, non_blocking=True) for _ in range(rounds)]
    return ways


def load_figures(path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """GB/s of each way, page cache warm and cold."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, figures = path.stat().st_size / 1e9, {}
    for name, function in load_ways(path, device).items():
        function()  # warm: page cache, allocator, pinned buffers
        figures[name] = {"warm GB/s": round(size / timed(function, repeats), 2)}
        if "pinned" not in name and drop_cache(path):
            cold = timed(function, max(1, repeats // 2), lambda: drop_cache(path))
            figures[name]["cold GB/s"] = round(size / cold, 2)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the test files go (default: a temporary folder)")
    parser.add_argument("--load-gb", type=float, default=2.0)
    parser.add_argument("--repack-gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        sparse, part = folder / "ltx-2.3-22b-dev.safetensors", folder / "part.safetensors"
        total = sparse_monolith(sparse)
        runs = [in_process(_MATERIALISE, REPO, sparse, folder / "overlay.json") for _ in range(args.repeats)]
        ours = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        size = real_part(part, args.repack_gb)
        repack = in_process(_REPACK, part, folder / "repacked.safetensors")
        factor = 42.0e9 / size  # transformer and connectors of the real file
        (folder / "repacked.safetensors").unlink()
        if args.load_gb > args.repack_gb:
            real_part(part, args.load_gb)
        result = {"cpu": os.cpu_count(), "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                  "materialise 46 GB": {**ours, "file_gb": total / 1e9, "weights copied": 0},
                  f"repack {size / 1e9:.1f} GB": repack,
                  "repack 42 GB, extrapolated by bytes": {key: value * factor for key, value in repack.items()},
                  f"load {part.stat().st_size / 1e9:.1f} GB": load_figures(part, args.repeats)}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
