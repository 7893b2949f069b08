"""The pack as ComfyUI imports it, under a name made of a path; for the scripts that run inside ComfyUI's tree."""
from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_pack(folder: Path, module: str = "nodes") -> ModuleType:
    """Import the pack in a folder, and one of its modules."""
    spec = importlib.util.spec_from_file_location("pack_x_path", folder / "__init__.py",
                                                  submodule_search_locations=[str(folder)])
    pack = importlib.util.module_from_spec(spec)
    sys.modules["pack_x_path"] = pack
    spec.loader.exec_module(pack)
    return importlib.import_module(f"pack_x_path.{module}")
