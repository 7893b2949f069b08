"""What the host does in a forward that is not recorded: its seconds without the device, by function.

    python -m bench host [--sizes preview] [--top 40]

Random weights of the true shapes. Everything is launched before the device is waited for, so the first figure is what
launching takes; the second is with the device.
"""
from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import torch

from ltx23_core.config import TransformerConfig
from ltx23_core.ops import pick

from .models import TEXT, Work, config_22b, random_transformer


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["preview"])
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--tiny", action="store_true", help="small widths: the host does the same for them")
    parser.add_argument("--layers", type=int, default=48)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    raw = config_22b(args.tiny) | {"num_layers": args.layers}
    pick.prepare()
    model = random_transformer(raw, device, dtype)
    for size in args.sizes:
        call = Work.make(size, TransformerConfig.from_dict(raw), device, dtype, 32 if args.tiny else TEXT).ours(model)
        model.transformer_blocks[0].register_forward_pre_hook(lambda *_: None)  # with hooks nothing is recorded
        call()
        for _ in range(3):
            begin = time.perf_counter()
            call()
            launched = time.perf_counter() - begin
            if device.type == "cuda":
                torch.cuda.synchronize()
            print(f"# {size}: launched in {launched:.3f} s, done in {time.perf_counter() - begin:.3f} s", flush=True)
        with cProfile.Profile() as profile:
            call()
        pstats.Stats(profile).sort_stats("tottime").print_stats(args.top)


if __name__ == "__main__":
    main()
