"""What clients hear of paths: "models/loras/x.safetensors", never where on the server that lies."""
from __future__ import annotations

import os
import re
from functools import lru_cache

import folder_paths

# An absolute path outside all known folders; its last part alone is said. An address on the web is none, nor a route.
_END = r"[^\s/\\'\"`,;()\[\]]"
_ELSEWHERE = re.compile(rf"(?<![\w.~:/\\-])(?:[A-Za-z]:[\\/]+|\\\\+|/)(?:{_END}+[\\/]+)+(?P<name>{_END}+)|"
                        rf"(?<![\w.~:/\\-])[A-Za-z]:[\\/]+(?P<alone>{_END}+)")
_BELOW = re.compile(rf"(?:[/\\]+{_END}+)*")
_SLASHES = re.compile(r"[/\\]+")


Known = tuple[tuple[str, str], ...]  # (folder, how it is called), the first one of a folder counts


def folders() -> Known:
    """Every folder that ComfyUI knows; touches no disk."""
    kinds = folder_paths.folder_names_and_paths.items()
    models = []
    for kind, (paths, _) in kinds:
        if kind != "custom_nodes":
            models += [(os.fspath(path), f"models/{kind}") for path in paths]
    own = [(folder_paths.get_output_directory(), "output"),
           (folder_paths.get_input_directory(), "input"),
           (folder_paths.get_temp_directory(), "temp"),
           (folder_paths.get_user_directory(), "user"),
           (folder_paths.models_dir, "models"),
           (folder_paths.base_path, "ComfyUI"),
           (os.path.expanduser("~"), "~")]
    return (*models, *own)


@lru_cache(maxsize=4)
def _all_forms(known: Known) -> tuple[dict[str, str], re.Pattern[str]]:
    """Every way in which a folder may stand in a text -> how it is called, and the pattern of them all."""
    names: dict[str, str] = {}
    for path, name in known:
        for form in (path, os.path.abspath(path), os.path.realpath(path)):
            form = form.rstrip("/\\")
            if len(form) > 2:  # neither "/" nor "C:" is a folder to speak of
                names.setdefault(form, name)
                names.setdefault(form.replace("\\", "\\\\"), name)  # as a repr writes it
    longest = sorted(names, key=len, reverse=True)
    return names, re.compile(r"(?<![\w.~:/\\-])(?:" + "|".join(map(re.escape, longest)) + r")(?![\w-])")


def named(text: str, known: Known) -> str:
    """A message with its paths named by the folders that are known, and others by their last part."""
    names, pattern = _all_forms(known)
    pieces, at = [], 0
    for match in pattern.finditer(text):
        rest = _BELOW.match(text, match.end())
        pieces += [_ELSEWHERE.sub(_last, text[at:match.start()]), names[match[0]], _SLASHES.sub("/", rest[0])]
        at = rest.end()
    return "".join(pieces) + _ELSEWHERE.sub(_last, text[at:])


def _last(match: re.Match[str]) -> str:
    return match["name"] or match["alone"]


def for_clients(text: str) -> str:
    """A message of this server with its paths named."""
    return named(text, folders())
