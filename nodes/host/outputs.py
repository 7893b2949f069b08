"""Files in ComfyUI's output folder, and the records that make the page show them."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import folder_paths
from comfy.cli_args import args as host_arguments
from comfy_api.latest import InputImpl, io, ui

from ...ltx23_core.errors import MediaError
from .names import FORBIDDEN


def output_problem(prefix: str) -> str | None:
    """What is wrong with a file name prefix, or None: it must stay in the output folder."""
    root = Path(folder_paths.get_output_directory()).resolve()
    is_plain = prefix.strip() and not FORBIDDEN.search(prefix) and not prefix.startswith(("/", "\\"))
    if is_plain and (root / prefix).resolve().is_relative_to(root):
        return None
    return str(MediaError(f"filename_prefix is {prefix!r}", "a name inside ComfyUI's output folder",
                          "Use a relative name such as video/LTX-2.3."))


def output_file(prefix: str, width: int, height: int, suffix: str = ".mp4") -> tuple[Path, ui.SavedResult]:
    """The next free file for a prefix in the output folder, and the record that makes the page show it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height)
    file = f"{name}_{counter:05}_{suffix}"
    return Path(folder) / file, ui.SavedResult(file, subfolder, io.FolderType.output)


def metadata(hidden: io.HiddenHolder) -> dict[str, str]:
    """What ComfyUI writes into saved files, as JSON: dropping the file on the page brings the workflow back.

    Empty where the server runs with --disable-metadata.
    """
    if host_arguments.disable_metadata:
        return {}
    found = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {key: json.dumps(value) for key, value in found.items() if value is not None}


def saved_videos(saved: Sequence[tuple[Path, ui.SavedResult]]) -> io.NodeOutput:
    """VIDEO outputs (a list) of files that are already in the output folder, shown in the node."""
    return io.NodeOutput([InputImpl.VideoFromFile(str(path)) for path, _ in saved],
                         ui=ui.PreviewVideo([record for _, record in saved]))
