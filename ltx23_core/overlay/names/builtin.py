"""The built-in configuration of LTX-2.3 22B and Gemma 3 12B, for files without metadata (spec/01 §2.1, 09 §3)."""
from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("ltx-2.3.json")


@cache
def _table() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def builtin_config(part: str) -> dict[str, Any]:
    """A copy of one part: transformer, vae, audio_vae or vocoder."""
    return deepcopy(_table()["config"][part])


def builtin_gemma() -> dict[str, Any]:
    """A copy of the config.json of Gemma 3 12B."""
    return deepcopy(_table()["text_encoder"])
