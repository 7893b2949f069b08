"""Files in ComfyUI's output folder, and the records that make the page show them."""
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths
from comfy.cli_args import args as host_arguments
from comfy_api.latest import InputImpl, io, ui

from ...ltx23_core.errors import MediaError
from .names import expand, name_problem
from .values import text_problem


def output_problem(prefix: str) -> str | None:
    """What is wrong with a file name prefix, or None: it stays in the output folder, can be a name, can be written."""
    try:
        refuse_output(prefix)
    except MediaError as error:
        return str(error)
    return None


def refuse_output(prefix: str) -> None:
    """Refuse a file name prefix that leaves the output folder, that no file can have, or that cannot be written there.

    Raises:
        MediaError: what is wrong with it.
    """
    root = Path(folder_paths.get_output_directory()).resolve()
    wrong = text_problem("filename_prefix", prefix) or name_problem(prefix) or _place_problem(root, prefix)
    if wrong is not None:
        raise MediaError(*wrong)


def _place_problem(root: Path, prefix: str) -> tuple[str, str, str] | None:
    try:
        path = (root / expand(prefix, 0, 0).replace("\\", "/")).resolve()
        path.parent.exists()
    except OSError as error:  # names that are short enough can make a path that is too long
        return (f"filename_prefix makes a path of {len(prefix)} characters ({error.strerror})",
                "a path that the file system takes", "Use fewer folders.")
    if not prefix.strip() or not path.is_relative_to(root):
        return (f"filename_prefix is {prefix!r}", "a name inside ComfyUI's output folder",
                "Use a relative name such as video/LTX-2.3.")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return (f"filename_prefix leads into {folder}, which is a file", "a folder for the result",
                "Use another filename_prefix.")
    if not os.access(folder, os.W_OK):
        return (f"filename_prefix leads into the folder {folder}, which is read-only",
                "an output folder that ComfyUI may write", "Give it write access.")
    return None


class OutputFiles:
    """Names for the results of one run in the output folder, each the next that is free.

    Args:
        prefix: of the user, with marks, which are put into words once.
        width, height: pixels, for the marks.
        hidden: of the node; its graph answers %Node.input%.
        suffix: of the files.
    """

    def __init__(self, prefix: str, width: int, height: int, hidden: io.HiddenHolder | None = None,
                 suffix: str = ".mp4") -> None:
        self._prefix = expand(prefix, width, height, getattr(hidden, "prompt", None))
        self._size, self._suffix = (width, height), suffix

    def next(self) -> Path:
        """The next free name; another server may take it before the file is there, so ask again then."""
        try:
            folder, name, counter, _, _ = folder_paths.get_save_image_path(
                self._prefix, folder_paths.get_output_directory(), *self._size)
        except OSError as error:
            raise MediaError(f"no folder can be made for {self._prefix!r} ({error})", "a writable output "
                                                                                      "folder",
                             "Give ComfyUI write access to its output folder.") from error
        return Path(folder) / f"{name}_{counter:05}_{self._suffix}"


def record(path: Path) -> ui.SavedResult:
    """What makes the page show a file of the output folder."""
    folder = path.parent.relative_to(folder_paths.get_output_directory())
    below = folder.as_posix()
    if folder == Path():
        below = ""
    return ui.SavedResult(path.name, below, io.FolderType.output)


def output_file(prefix: str, width: int, height: int, suffix: str = ".mp4") -> tuple[Path, ui.SavedResult]:
    """The next free file for a prefix in the output folder, and the record that makes the page show it."""
    path = OutputFiles(prefix, width, height, suffix=suffix).next()
    return path, record(path)


def metadata(hidden: io.HiddenHolder) -> dict[str, str]:
    """What ComfyUI writes into saved files, as JSON: dropping the file on the page brings the workflow back.

    Empty where the server runs with --disable-metadata.
    """
    if host_arguments.disable_metadata:
        return {}
    found = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    texts = {}
    for key, value in found.items():
        if value is not None:
            texts[key] = json.dumps(value)
    return texts


def saved_videos(saved: Sequence[Path], titles: Sequence[str]) -> io.NodeOutput:
    """VIDEO outputs (a list) of files that are already in the output folder, shown in the node with their titles."""
    shown = ui.PreviewVideo(list(map(record, saved))).as_dict()
    return io.NodeOutput(_as_video(saved), ui={**shown, "text": list(titles)})


def saved_sounds(saved: Sequence[Path]) -> io.NodeOutput:
    """The same for files with sound alone, which the page plays."""
    return io.NodeOutput(_as_video(saved), ui={"audio": list(map(record, saved))})


def _as_video(saved: Sequence[Path]) -> list[InputImpl.VideoFromFile]:
    videos: list[InputImpl.VideoFromFile] = []
    for path in saved:
        videos.append(InputImpl.VideoFromFile(str(path)))
    return videos
