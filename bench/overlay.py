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
from pathlib import Path

import torch

from .generate_weights import DTYPES, header_bytes, manifest_22b, random_tensor
from .loading import REPO, load_figures

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
