"""File names that users write: the marks of ComfyUI's Save nodes, and what no file system takes."""
from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_MARK = re.compile(r"%(date:[^%]*|[^%/\\]+)%")
_DATE = re.compile(r"yyyy|yyy|yy|dd?|MM?|hh?|mm?|ss?")
_HOSTS = frozenset({"width", "height", "year", "month", "day", "hour", "minute", "second"})  # the server's own
_UNSAFE = re.compile(r'[\\?<>:*|"\x00-\x1f\x7f]')  # in what a mark becomes
_BRACKETS = re.compile(r"\s*\(.*\)$")
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
_DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)[1-9]", re.I)
LONGEST = 255  # bytes of one name on the usual file systems (characters on Windows)
NUMBERED = len("_00001_.mp4")


def expand(prefix: str, width: int, height: int, prompt: Mapping[str, Any] | None = None,
           now: time.struct_time | None = None) -> str:
    """The prefix with its marks in words: %date:yyyy-MM-dd%, %year% … %second%, %width%, %height%, %Node.input%.

    The page replaces %date:…% and %Node.input% for ComfyUI's own Save nodes only, so this is done here, in its form.
    A node is named by its title or its class; what is not found stands there without the percent signs.

    Args:
        prefix: of the user.
        width, height: pixels of the result.
        prompt: the graph in API form, for %Node.input%.
        now: for tests; None: the time of the server.
    """
    moment = now or time.localtime()
    values = {"width": str(width), "height": str(height), "year": f"{moment.tm_year}",
              "month": f"{moment.tm_mon:02}", "day": f"{moment.tm_mday:02}", "hour": f"{moment.tm_hour:02}",
              "minute": f"{moment.tm_min:02}", "second": f"{moment.tm_sec:02}"}

    def written(match: re.Match[str]) -> str:
        mark = match[1]
        if mark in values:
            return values[mark]
        if mark.startswith("date:"):  # slashes make folders there, as on the page
            return _UNSAFE.sub("_", _date(mark.removeprefix("date:"), moment))
        return _UNSAFE.sub("_", _input(mark, prompt or {}).replace("/", "_"))

    return _MARK.sub(written, prefix)


def _date(form: str, moment: time.struct_time) -> str:
    """A form such as yyyy-MM-dd hh_mm_ss: one letter without, two with a leading zero."""
    numbers = {"d": moment.tm_mday, "M": moment.tm_mon, "h": moment.tm_hour, "m": moment.tm_min, "s": moment.tm_sec}

    def part(match: re.Match[str]) -> str:
        token = match[0]
        if token == "yy":
            return f"{moment.tm_year}"[2:]
        if token[0] == "y":
            return f"{moment.tm_year}"
        return f"{numbers[token[0]]:0{len(token)}}"

    return _DATE.sub(part, form)


def short_name(title: object) -> str:
    """What texts call a node of ours: its title without "LTX-2.3" and what stands in brackets."""
    if not isinstance(title, str):
        return ""
    return _BRACKETS.sub("", title.removeprefix("LTX-2.3 "))


def _input(mark: str, prompt: Mapping[str, Any]) -> str:
    """The value of %Node.input% in a graph, or the mark itself."""
    name, _, key = mark.rpartition(".")
    for node in prompt.values():
        title = node.get("_meta", {}).get("title")
        kind = str(node.get("class_type"))
        titles = (kind, kind.removeprefix("LTX23"), title, short_name(title))  # titles may be translated
        value = node.get("inputs", {}).get(key)
        if name and name in titles and value is not None and not isinstance(value, (list, dict)):
            return str(value)
    return mark


def name_problem(prefix: str) -> tuple[str, str, str] | None:
    """What no file can be called by, as (found, expected, fix), or None; marks count as what they become."""
    for mark in _MARK.findall(prefix):
        if mark not in _HOSTS and not mark.startswith("date:") and "." not in mark:
            return (f"filename_prefix has the mark %{mark}%",
                    "%date:yyyy-MM-dd%, %year%, %month%, %day%, %hour%, %minute%, %second%, %width%, "
                    "%height% or %Node.input%", "Use one of these, or take the percent signs out.")
    parts = [part for part in PurePosixPath(expand(prefix, 1024, 1024).replace("\\", "/")).parts if part != "/"]
    for index, part in enumerate(parts):
        room = LONGEST
        if index == len(parts) - 1:
            room -= NUMBERED
        found = _part_problem(part, room)
        if found is not None:
            return found
    return None


def _part_problem(part: str, room: int) -> tuple[str, str, str] | None:
    odd = _FORBIDDEN.search(part)
    if odd is not None:
        return (f"filename_prefix has {odd[0]!r} in {part[:60]!r}", 'no < > : " | ? * or control character in a name',
                "Use a dash or an underscore there.")
    if part.rstrip(" .") != part and part not in (".", ".."):
        return (f"filename_prefix has {part[-60:]!r}, which ends in a dot or a space", "a name that Windows "
                                                                                       "keeps",
                "Take the last character away.")
    if _DEVICE.fullmatch(part.partition(".")[0]):
        return f"filename_prefix has {part!r}, a device on Windows", "another name", "Add a letter to it."
    size = len(part.encode("utf-8", "surrogatepass"))
    if size > room:
        return (f"filename_prefix has a name of {size} bytes ({part[:30]}…)",
                f"at most {room}, which file systems take", "Use a shorter name.")
    return None

