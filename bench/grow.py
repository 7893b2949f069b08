"""Touch and give back so many GB of RAM: a virtual machine that is given its memory as it uses it then shows all of it.

`python -m bench.grow 100`. A lent machine with two H200 showed 31 GiB at the start and 255 after 192 had been filled
(MemTotal, 2026-10-29, read by those who lend it), and a plan goes by what the computer says it has.
"""
from __future__ import annotations

import sys
import time

import torch

from ltx23_core.memory.ram import available_ram, total_ram

PIECE = 4 << 30  # a larger one may be refused while the machine still shows little


def main(gigabytes: int) -> None:
    """Fill memory in pieces, let go of it, and print what the computer shows before and after."""
    before, started = total_ram(), time.monotonic()
    kept = [torch.full((PIECE,), 1, dtype=torch.uint8) for _ in range(gigabytes * 10**9 // PIECE)]
    del kept
    print(f"RAM shown: {(before or 0) / 1e9:.0f} GB, after touching {gigabytes} GB {(total_ram() or 0) / 1e9:.0f} GB, "
          f"{(available_ram() or 0) / 1e9:.0f} GB of it free; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
