"""From which size on does the device fetch registered pages itself, and not the processor for it?

    python -m bench small-copies [--folder /dev/shm]

A file is registered and then cut to nothing, and so many bytes are copied to the device, in a process of their own:
where the processor reads them, to put them among the commands, the lost page ends the process (bus error). Above
`weights.pages.SMALL` that must not be; how low it may lie is asked here.
"""
from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (256, 4 << 10, 16 << 10, 32 << 10, 64 << 10, (64 << 10) + 256, 96 << 10, 128 << 10, 148 << 10, 1 << 20)
FILE = 8 << 20
READ_ONLY = 0x08


def copy(path: Path, size: int) -> str:
    """Copy ``size`` bytes of the cut file; what came."""
    driver = ctypes.CDLL("libcuda.so.1")
    path.write_bytes(bytes(range(256)) * (FILE // 256))
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    descriptor = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, ctypes.c_size_t(FILE), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
    context, target, stream = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_void_p()
    asked = [driver.cuInit(0), driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
             driver.cuCtxSetCurrent(context), driver.cuStreamCreate(ctypes.byref(stream), 1),
             driver.cuMemAlloc_v2(ctypes.byref(target), ctypes.c_size_t(FILE)),
             driver.cuMemHostRegister_v2(ctypes.c_void_p(address), ctypes.c_size_t(FILE), READ_ONLY)]
    os.truncate(path, 0)
    asked.append(driver.cuMemcpyHtoDAsync_v2(target, ctypes.c_void_p(address), ctypes.c_size_t(size), stream))
    asked.append(driver.cuStreamSynchronize(stream))
    got = ctypes.create_string_buffer(size)
    asked.append(driver.cuMemcpyDtoH_v2(got, target, ctypes.c_size_t(size)))
    right = got.raw == bytes(range(256)) * (size // 256)
    return f"codes {asked}, {'the old bytes' if right else 'OTHER BYTES'}"


def main() -> None:
    """One line a size."""
    parser = argparse.ArgumentParser(prog="bench small-copies", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--size", type=int, help="of one copy, in this process")
    args = parser.parse_args()
    if args.size:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            print(copy(Path(folder) / "file", args.size))
        return
    for size in SIZES:
        made = subprocess.run([sys.executable, __file__, "--folder", str(args.folder), "--size", str(size)],
                              capture_output=True, text=True, check=False, timeout=30)
        says = made.stdout.strip() or made.stderr.strip().splitlines()[-1:]
        if made.returncode < 0:
            says = f"ended by {signal.Signals(-made.returncode).name}"
        print(f"small copies | {args.folder} | {size} bytes | {says}", flush=True)


if __name__ == "__main__":
    main()
