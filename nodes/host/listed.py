"""Names of files as clients send them: relative ones alone, the same on every system, before any disk is asked."""
from __future__ import annotations

import re
import time
from collections.abc import Iterable

from ...ltx23_core.errors import OverlayError

NEW_SECONDS = 1.0  # far more than lies between the host's two questions about one node
LONGEST = 1_000  # characters
SHOWN = 100
# Windows' drive letters and streams (":"), and what ends a name early, hides text or cannot be printed.
FORBIDDEN = re.compile("[:\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Devices of Windows, with any ending: opening one may wait for ever.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


class Lately:
    """Which names have just come into a list: one that the host took a moment before may lack them."""

    def __init__(self) -> None:
        """No list was made yet."""
        self._since: dict[str, dict[str, float]] = {}

    def note(self, key: str, names: Iterable[str]) -> None:
        """The list of an input as it is handed out now."""
        now, before = time.monotonic(), self._since.get(key, {})
        self._since[key] = {name: before.get(name, now) for name in names}

    def is_new(self, key: str, name: object) -> bool:
        """Whether a name came into the list of an input less than `NEW_SECONDS` ago."""
        since = None
        if isinstance(name, str):  # whatever a client sends
            since = self._since.get(key, {}).get(name)
        return since is not None and time.monotonic() - since < NEW_SECONDS


LATELY = Lately()


def listed_name(name: str, what: str) -> str:
    """A name as lists have it: forward slashes, relative. Backslashes come from workflows of a Windows computer.

    Args:
        name: from the client.
        what: the input that it stands in, for the error.

    Raises:
        OverlayError: a drive letter, a root, a share, "..", a hidden name, a device, a stream.
    """
    plain = name.replace("\\", "/")
    if len(name) > LONGEST or FORBIDDEN.search(name) or not all(map(_is_plain, plain.split("/"))):
        shown = name
        if len(name) > SHOWN:
            shown = name[:SHOWN] + "…"
        raise OverlayError(f"{what} is no name of a list: {shown!r}",
                           "a name below the model folders, without a drive, a root, a colon, '..' or a "
                           "hidden part",
                           "Choose a file of the list.")
    return plain


def _is_plain(part: str) -> bool:
    """Whether one part of a name is that of a file which lists show. Windows drops dots and blanks at the end."""
    return part != "" and not part.startswith(".") and part == part.rstrip(". ") and not _DEVICE.fullmatch(part)
