"""``python -m bench NAME [options]``: run one benchmark."""
from __future__ import annotations

import sys
from importlib import import_module

NAMES = {name: "bench." + name.replace("-", "_") for name in (
    "overlay", "export", "one_stage", "generate_weights", "lora", "ops", "kitchen", "generate", "transformer",
    "guided-step", "targets", "registering", "decode", "text", "end-to-end", "parallel", "scaling", "cards", "host",
    "quantise", "quality", "native", "small-copies")} | {
    "comfy": "bench.comfy.main", "streaming": "bench.streaming.main", "memory": "bench.memory_results"}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m bench {{{','.join(NAMES)}}} [options]")
    name = sys.argv.pop(1)
    import_module(NAMES[name]).main()
