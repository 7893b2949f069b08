"""Decoding a video beside what the device alone takes for it: frames on the host in both forms, and an mp4.

    python -m bench decode --sizes a,c [--repeats 3] [--tiny]

A random decoder of the true shapes, the official tiles. The mp4 needs PyAV, which is said where it is missing.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ltx23_core.decode.frames import to_frames
from ltx23_core.decode.tiles import auto_tiling, tiled_decode
from ltx23_core.geometry import video_grid
from ltx23_core.models.registry import build

from .generate_weights import manifest_22b, random_tensor
from .measure import peak_gib, table
from .models import SIZES, timed_once


def random_decoder(device: torch.device, dtype: torch.dtype, tiny: bool) -> tuple[nn.Module, int]:
    """The video decoder with random weights, and the channels of its latent."""
    config = json.loads(manifest_22b()[1]["config"])["vae"]
    if tiny:
        config = config | {"decoder_base_channels": 16, "latent_channels": 8}
    decoder = build("video_decoder", config)
    for name, value in decoder.state_dict().items():
        path, _, leaf = name.rpartition(".")
        tensor = random_tensor(name, tuple(value.shape), dtype, device)
        owner = decoder.get_submodule(path)
        if leaf in owner._parameters:
            tensor = nn.Parameter(tensor, requires_grad=False)
        setattr(owner, leaf, tensor)
    return decoder.eval(), config["latent_channels"]


def ways(decoder: nn.Module, latent: Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    tiling = auto_tiling(latent.shape)

    def pixels() -> Iterator[Tensor]:
        return (chunk[0] for chunk in tiled_decode(decoder, latent, tiling))

    def bytes_of() -> Iterator[Tensor]:
        return (to_frames(chunk, eight_bit=True) for chunk in pixels())

    found = {"device alone": lambda: sum(chunk.shape[1] for chunk in pixels()),
             "float frames on the host": lambda: sum(len(to_frames(chunk)) for chunk in pixels()),
             "byte frames on the host": lambda: sum(len(chunk) for chunk in bytes_of())}
    if importlib.util.find_spec("av") is None:
        print("# no mp4: PyAV is not installed", flush=True)
        return found
    from ltx23_core.media.video import write_video
    return found | {"mp4": lambda: write_video(folder / "bench.mp4", bytes_of(), 24.0)}


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median by the host's clock, the device waited for: files are written by the host."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["a"], help=f"of {', '.join(SIZES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="few channels: a smoke run")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    decoder, channels = random_decoder(device, dtype, args.tiny)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            grid = video_grid(*SIZES[size])
            latent = torch.randn(1, channels, grid.frames, grid.height, grid.width, device=device).to(dtype)
            alone = None
            for name, call in ways(decoder, latent, Path(folder)).items():
                timed_once(f"{size} {name}, first call", call)
                taken = seconds(call, args.repeats)
                alone = alone or taken
                rows.append([size, name, taken, f"{taken / alone:.2f}x", f"{peak_gib(call):.1f}"])
    print(table(("size", "what", "seconds", "of the device's", "peak GiB"), rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
