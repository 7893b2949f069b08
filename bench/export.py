"""Export at true size: memory, seconds and bytes of writing 46 GB, by each way that bytes are copied.

    python -m bench export --folder DIR [--layout monolith] [--no-verify] [--out FILE]

The source is the sparse file of `bench.overlay` (true header, a hole behind it); what is written is a real file of
46 GB, so DIR needs 47 GB. Each way runs in a process of its own, and its files are deleted before the next one begins.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

from .overlay import PEAK, REPO, in_process, sparse_monolith

WAYS = ("plain", "kernel")  # read and write through one buffer; copy_file_range

_EXPORT = PEAK + """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from ltx23_core import export, materialize
overlay, way = materialize(sys.argv[2]), sys.argv[5]
calls = 0
if way == "plain":
    del os.copy_file_range  # as where the system has none
else:
    kernel = os.copy_file_range
    def counted(*arguments):
        global calls
        calls += 1
        return kernel(*arguments)
    os.copy_file_range = counted
before, start = peak(), time.perf_counter()
done = export(overlay, sys.argv[3], sys.argv[4], verify=sys.argv[6] == "True")
seconds = time.perf_counter() - start
blocks = sum(file.path.stat().st_blocks * 512 for file in done.files)
print(json.dumps({"seconds": seconds, "written_gb": done.bytes / 1e9, "on_disk_gb": blocks / 1e9,
                  "rss_growth_mb": peak() - before, "copy_file_range calls": calls}))
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--layout", default="monolith")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--no-verify", action="store_true", help="do not compare what was written with its sources")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, object] = {"cpu": os.cpu_count(), "layout": args.layout, "verified": not args.no_verify}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        source = folder / "ltx-2.3-22b-dev.safetensors"
        sparse_monolith(source)
        for way in args.ways:
            result[way] = in_process(_EXPORT, REPO, source, args.layout, folder / way, way, not args.no_verify)
            print(way, json.dumps(result[way]), flush=True)
            shutil.rmtree(folder / way)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
