"""The one error family of the library.

Every failure that a user can cause says three things: what was found, what was expected, and the one
thing to do next. ComfyUI shows only the first line of a message, so all three stand in one line.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence

EXAMPLES = 8  # of each kind of problem, in an error
# Of file names, mostly: what breaks a line, hides text or cannot be printed at all (half a character).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_named: Callable[[str], str] = str
_WORD = re.compile(r"[A-Za-z][\w.+-]{0,39}", re.ASCII)


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
        message = _named(f"{self.found}. Expected: {self.expected}. Next: {self.fix}")
        super().__init__(_UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), message))

    def __reduce__(self) -> tuple[object, ...]:
        """As another process can have it: an exception is otherwise made of its message alone."""
        return type(self), (self.found, self.expected, self.fix)


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


NAN_FIX = (
    "Sample again with precision fp32; if that does not help, make sure that the weight files are undamaged.")


class WorkerError(LTX23Error):
    """A process that computes for this one has ended, or could not be started."""


class OutOfMemoryError(LTX23Error, MemoryError):
    """Not enough device memory for what was asked."""


def name_paths(named: Callable[[str], str]) -> None:
    """Have every later message pass through a function that writes its paths in another way.

    For a server: its clients hear "models/loras/x.safetensors", not where on the computer that is.
    """
    global _named
    _named = named


def spoken(text: str) -> str:
    """Any text with its paths written as messages have them."""
    return _named(text)


def word(value: object) -> str:
    """A name that stands in a file, for a message: in quotes if it is one plain word, else what it is instead.

    Messages reach whoever uses a server; what else may stand in a file is not their business.
    """
    if isinstance(value, str) and _WORD.fullmatch(value):
        return repr(value)
    if value is None:
        return "nothing"
    return "something that is no name"


def reason(error: BaseException) -> str:
    """Why a table from a file cannot be used, without what stands in it: the key that is missing, or the kind."""
    if isinstance(error, KeyError) and error.args:
        return f"{word(error.args[0])} is missing"
    return type(error).__name__


def examples(names: Sequence[str]) -> str:
    """The first few names, numbers in natural order."""
    ordered = sorted(names, key=_natural)
    shown = ordered[:EXAMPLES]
    if len(names) > EXAMPLES:
        shown.append(f"and {len(names) - EXAMPLES} more")
    return ", ".join(shown)


def _natural(name: str) -> list[int | str]:
    """A name as text and numbers in turn, by which 2 comes before 10."""
    parts: list[int | str] = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])  # every second one is digits
    return parts
