"""What is wrong with a number or a text that a user gave, in three parts."""
from __future__ import annotations

import math
import numbers
from typing import Any

Problem = tuple[str, str, str]  # found, expected, fix
SHOWN = 60  # characters of a wrong value
READABLE = (str, bytes, bool, int, float, dict, list, tuple)  # of other types only the name says something


def number_problem(name: str, value: Any, low: float | None, high: float | None,  # noqa: ANN401
                   whole: bool) -> Problem | None:
    """What is wrong with a number that must be finite and from low to high (None: no bound), or None."""
    kind = "number"
    if whole:
        kind = "whole number"
    span = f"a finite {kind}"
    if low is not None and high is not None:
        span = f"a {kind} from {low} to {high}"
    right = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not right or (whole and value != int(value)):
        near = "Use the default."
        if right:
            near = f"Use {round(value)}."
        return f"{name} is {shown(value)}", span, near
    if low is not None and value < low:
        return f"{name} is {value}", span, f"Set {name} to at least {low}."
    if high is not None and value > high:
        return f"{name} is {value}", span, f"Set {name} to {high} at most."
    return None


def text_problem(name: str, value: Any, longest: int | None = None) -> Problem | None:  # noqa: ANN401
    """What is wrong with a text, or None: half characters and null bytes can be neither read nor written."""
    if not isinstance(value, str):
        return f"{name} is {shown(value)}", "a text", f"Write {name} as text."
    if "\0" in value:
        return f"{name} has a null character at place {value.index(chr(0))}", "a text of characters", "Take it out."
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return (f"{name} has half a character (a lone surrogate) at place {error.start}", "whole characters",
                "Take it out or write the whole character.")
    if longest is not None and len(value) > longest:
        return f"{name} has {len(value)} characters", f"at most {longest}", "Use a shorter one."
    return None


def shown(value: Any) -> str:  # noqa: ANN401
    """A wrong value as a user may read it, cut to a line."""
    if value is None:
        return "nothing (null)"
    text = type(value).__name__
    if isinstance(value, READABLE):
        text = repr(value)
    if len(text) > SHOWN:
        return text[:SHOWN] + "…"
    return text
