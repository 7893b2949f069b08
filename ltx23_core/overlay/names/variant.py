"""Dev or distilled, which version, which generation: what names say, since nothing inside weights tells (spec/09 §6).

One rule for the node, the command line and Python. It reads names, and the scheduler of a diffusers folder.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import OverlayError
from ..bytes.header import read_json

DEV, DISTILLED = "dev", "distilled"
SCHEDULER = ("scheduler", "scheduler_config.json")
_UNDISTILLED = re.compile(r"(un|non[-_. ]?|not[-_. ]?)distill", re.I)
_DISTILLED = re.compile(r"distill", re.I)
_DEV = re.compile(r"(?<![a-z])dev(?![a-z])|(?<![a-z])dev(?=(?:bf|(?:mx|nv)?fp|int|i?q)\d)", re.I)
# The number format at the end of a name: -Q4_K_M, -UD-Q4_K_XL, -IQ4_XS, _fp8_scaled, ...
_FORMAT = re.compile(r"[-_. ](UD[-_])?(I?Q\d([-_][0-9A-Z]{1,2})*|BF16|F(P)?(8|16|32)|MXFP[48]|NVFP4|INT[48])$", re.I)
_ENDING = re.compile(r"\.(safetensors|sft|gguf|ckpt|pth?|bin)$", re.I)
# "ltx-2.3", "LTX23", "ltx-2-3-22b"; "ltx-2-19b", "LTX2_video"; "ltx-video-0.9.8", "ltxv-13b".
_LTX = r"ltx[-_. ]?(?:video|v)?[-_. ]?"
_GENERATIONS = (
    ("2.5", re.compile(_LTX + r"2[-_. ]?5(?!\d)", re.I)),
    ("2.3", re.compile(_LTX + r"2[-_. ]?3(?!\d|d(?![a-z]))|(?<![a-z\d])22b(?![a-z])", re.I)),
    ("2.0", re.compile(_LTX + r"2(?:[-_. ]?0(?![\d.])|(?![\db]|\.\d))|(?<![a-z\d])19b(?![a-z])", re.I)),
    ("0.9", re.compile(r"ltx[-_. ]?v(?:ideo)?(?![a-z])|ltx[-_. ]?0[._]?9", re.I)),
)
_VERSION = re.compile(r"(?<![a-z\d.])v?(\d)[._](\d)(?![\d]|[._]\d)", re.I)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LEVELS = 2  # folders above a file whose names count


@dataclass(frozen=True)
class Variant:
    """What a name says.

    Attributes:
        name: "dev", "distilled", or None where it says neither.
        version: of distilled weights as it is written, "1.1"; "" where it says none.
    """

    name: str | None = None
    version: str = ""

    @property
    def words(self) -> str:
        """For sentences, with a space before: " distilled 1.1"."""
        return "".join(f" {word}" for word in (self.name, self.version) if word)


def bare(name: str) -> str:
    """A file's name without ending and number format: "ltx-2.3-22b-dev-Q4_K_M.gguf" as "ltx-2.3-22b-dev"."""
    return _FORMAT.sub("", _ENDING.sub("", name))


def variant_of_name(name: str) -> Variant:
    """What the name of one file or folder says."""
    name = bare(name)
    if _UNDISTILLED.search(name):
        return Variant(DEV)
    if _DISTILLED.search(name):
        version = _VERSION.search(_without_generation(name))
        if version is None:
            return Variant(DISTILLED)
        return Variant(DISTILLED, f"{version[1]}.{version[2]}")
    if _DEV.search(name):
        return Variant(DEV)
    return Variant()


def variant_of(path: Path) -> Variant:
    """What is known of a weight file or of a folder with weights.

    Names count first: the file's own, the folder's, the two above it (those that the hub's cache and diffusers make in
    between do not count). Where none says anything: the scheduler of the diffusers folder, since distilled weights
    bring one without dynamic shifting (spec/01 §3).
    """
    folder, own = path, []
    if _ENDING.search(path.name) is not None:
        folder, own = path.parent, [path.name]
    for name in (*own, *_folders(folder)):
        named = variant_of_name(name)
        if named.name is not None:
            return named
    pipeline = folder
    if folder.name == "transformer":
        pipeline = folder.parent
    return _by_scheduler(pipeline)


def _by_scheduler(pipeline: Path) -> Variant:
    scheduler = pipeline.joinpath(*SCHEDULER)
    if not scheduler.is_file():
        return Variant()
    try:
        dynamic = read_json(scheduler).get("use_dynamic_shifting", True)
    except OverlayError:
        return Variant()
    if dynamic:
        return Variant(DEV)
    return Variant(DISTILLED)


def _folders(folder: Path) -> Iterator[str]:
    """Names of a folder and of those above it that somebody chose."""
    left = _LEVELS + 1
    for each in (folder, *folder.parents):
        if _COMMIT.fullmatch(each.name) or each.name in ("snapshots", "blobs", "transformer"):
            continue
        yield each.name
        left -= 1
        if not left:
            return


def generation_of(name: str) -> str:
    """The generation that a file's name states: "2.3", "2.0", "2.5", "0.9", or "" where it states none."""
    for generation, pattern in _GENERATIONS:
        if pattern.search(name):
            return generation
    return ""


def _without_generation(name: str) -> str:
    for _, pattern in _GENERATIONS:
        name = pattern.sub("", name)
    return name


def version_of(name: str) -> tuple[int, int]:
    """The version that a file's name ends with, (1, 0) where it states none: "...-x2-1.1.safetensors" as (1, 1)."""
    version = (1, 0)
    for found in _VERSION.finditer(_without_generation(bare(name))):
        version = (int(found[1]), int(found[2]))
    return version
