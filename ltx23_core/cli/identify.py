"""``python -m ltx23_core identify``: one line about each file or folder."""
from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from ..overlay.shelf.identify import Identity
from ..overlay.shelf.identify import identify as identify_path
from ..overlay.shelf.shelf import walk


def identify(options: Namespace) -> None:
    """Print what each path is; a folder that is no model itself is listed."""
    found: list[Identity] = []
    for path in options.paths:
        found += _identities(path)
    if options.json:
        print(json.dumps([{**vars(each), "path": str(each.path)} for each in found], indent=1))
        return
    for each in found:
        print(f"{each.path}: {each.sentence}")
        if each.fix:
            print(f"    {each.fix}")


def _identities(path: Path) -> list[Identity]:
    whole = identify_path(path)
    if whole.kind != "folder":
        return [whole]
    return [identify_path(path / name) for name in walk(path)] or [whole]
