"""How fast a mapped weight file becomes pinned memory: piece sizes, threads, pages mapped beforehand.

    python -m bench registering --file FILE [--most 12]

Each way has a fresh mapping of the same bytes; whether the file lies in tmpfs or in a disk's page cache matters, since
the system keeps the one in single pages and the other in large runs of them.
"""
from __future__ import annotations

import argparse
import ctypes
import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch

from ltx23_core.weights.pages import READ_ONLY

MADV_HUGEPAGE, MADV_POPULATE_READ = 14, 22
GIB = 1 << 30
LIBC = ctypes.CDLL(None, use_errno=True)


def advise(address: int, size: int, how: int) -> None:
    """``madvise`` without Python's lock, which the mmap module's own holds.

    Raises:
        OSError: the system refuses.
    """
    if LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), how):
        raise OSError(ctypes.get_errno(), f"madvise {how}")


class Way:
    """One way to register the first bytes of a file.

    Args:
        piece: bytes registered at once.
        threads: that register.
        mapped: threads that map the pages before (MADV_POPULATE_READ); 0: the driver does.
        ahead: mapping runs beside registering instead of before it.
        huge: ask for huge pages.
    """

    def __init__(self, piece: int, threads: int = 1, mapped: int = 0, ahead: bool = False, huge: bool = False) -> None:
        self.piece, self.threads, self.mapped, self.ahead, self.huge = piece, threads, mapped, ahead, huge

    def __str__(self) -> str:
        text = f"{self.piece / GIB:g} GiB pieces by {self.threads}"
        text += f", mapped by {self.mapped} {'beside' if self.ahead else 'before'}" if self.mapped else ""
        return text + (", huge pages asked for" if self.huge else "")

    def run(self, path: Path, size: int) -> str:
        """Register and give back; the seconds of each part."""
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        address = numpy.frombuffer(mapping, numpy.uint8).ctypes.data
        if self.huge:
            advise(address, size, MADV_HUGEPAGE)
        pieces = [(at, min(self.piece, size - at)) for at in range(0, size, self.piece)]
        runtime, torch_device = torch.cuda.cudart(), torch.device("cuda", 0)

        def register(piece: tuple[int, int]) -> int:
            with torch.cuda.device(torch_device):
                return int(runtime.cudaHostRegister(address + piece[0], piece[1], READ_ONLY))

        start = time.perf_counter()
        with ThreadPoolExecutor(max(1, self.mapped)) as mapping_pool, ThreadPoolExecutor(self.threads) as pool:
            small = 64 << 20
            jobs = {at: mapping_pool.submit(advise, address + at, min(small, size - at), MADV_POPULATE_READ)
                    for at in (range(0, size, small) if self.mapped else ())}
            if not self.ahead:
                for job in jobs.values():
                    job.result()
            mapped = time.perf_counter() - start

            def both(piece: tuple[int, int]) -> int:
                for at in range(piece[0], piece[0] + piece[1], small):
                    if at in jobs:
                        jobs[at].result()
                return register(piece)

            codes = list(pool.map(both, pieces))
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        for (at, _), code in zip(pieces, codes, strict=True):
            if code == 0:
                runtime.cudaHostUnregister(address + at)
        giving = time.perf_counter() - start
        failed = sum(code != 0 for code in codes)
        mapping.close()
        return (f"{size / seconds / 1e9:.1f} GB/s in all ({seconds:.2f} s, of it mapping before {mapped:.2f}) | "
                f"given back at {size / giving / 1e9:.0f} GB/s | refused {failed}")


WAYS = (Way(GIB // 4), Way(GIB // 4), Way(GIB // 32), Way(GIB), Way(4 * GIB), Way(64 * GIB), Way(GIB // 4, 4),
        Way(GIB // 4, 1, 1), Way(GIB // 4, 1, 8), Way(GIB // 4, 1, 8, True), Way(GIB // 4, 4, 8, True),
        Way(GIB // 4, 1, 8, huge=True))


def run(path: Path, most: float) -> None:
    """All ways, one line each."""
    torch.cuda.synchronize()
    size = min(path.stat().st_size, int(most * 1e9)) // mmap.PAGESIZE * mmap.PAGESIZE
    for setting in ("enabled", "shmem_enabled"):
        at = Path("/sys/kernel/mm/transparent_hugepage") / setting
        print("registering | huge pages |", setting, "|", at.read_text().strip() if at.exists() else "unknown")
    for way in WAYS:
        try:
            print("registering |", path.parent, f"| {size / 1e9:.1f} GB |", way, "|", way.run(path, size), flush=True)
        except (OSError, ValueError) as error:
            print("registering |", way, "|", error, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--most", type=float, default=12, help="GB of it")
    args = parser.parse_args()
    run(args.file, args.most)


if __name__ == "__main__":
    main()
