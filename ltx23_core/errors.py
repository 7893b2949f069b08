"""The one error family of the library.

Every failure that a user can cause says three things: what was found, what was expected, and the one
thing to do next. ComfyUI shows only the first line of a message, so all three stand in one line.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

EXAMPLES = 8  # of each kind of problem, in an error
# Of file names, mostly: what breaks a line, hides text or cannot be printed at all (half a character).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class LTX23Error(Exception):
    """Base of every error this library raises on purpose.

    Args:
        found: what is there, with names and numbers ("width is 770").
        expected: what should be there ("a multiple of 32").
        fix: one next action, as an imperative sentence ("Use 768 or 800.").
    """

    def __init__(self, found: str, expected: str, fix: str) -> None:
        self.found = found.strip().rstrip(".")
        self.expected = expected.strip().rstrip(".")
        self.fix = fix.strip()
        message = f"{self.found}. Expected: {self.expected}. Next: {self.fix}"
        super().__init__(_UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), message))


class GeometryError(LTX23Error, ValueError):
    """A size, frame count, frame rate or tile that LTX-2.3 cannot make."""


class RequestError(LTX23Error, ValueError):
    """A generation request whose settings are out of range or do not fit together."""


class OverlayError(LTX23Error):
    """A source file or an overlay manifest that cannot be used."""


class ExportError(LTX23Error):
    """Files that cannot be written for other tools."""


class WeightsError(LTX23Error):
    """Tensors that are missing, unexpected, mis-shaped or unreadable."""


class MediaError(LTX23Error):
    """An image, video or audio file or tensor that cannot be used."""


class OutOfMemoryError(LTX23Error, MemoryError):
    """Not enough device memory for what was asked."""


def examples(names: Sequence[str]) -> str:
    """The first few names, numbers in natural order."""
    ordered = sorted(names, key=_natural)
    shown = ordered[:EXAMPLES]
    if len(names) > EXAMPLES:
        shown.append(f"and {len(names) - EXAMPLES} more")
    return ", ".join(shown)


def _natural(name: str) -> list[int | str]:
    """A name as text and numbers in turn, by which 2 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
