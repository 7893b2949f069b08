"""``python -m ltx23_core``: see `ltx23_core.cli`."""
from __future__ import annotations

import signal
import sys

from .cli.parser import main

if __name__ == "__main__":
    # A polite kill unwinds the stack, so that temporary files are removed as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ltx23_core"):
            raise
        sys.exit(f"error: this Python ({sys.executable}) has no {error.name}. Expected: a Python with the packages of "
                 "ComfyUI. Next: Take ComfyUI's own Python, or run pip install . in the folder of this clone.")
