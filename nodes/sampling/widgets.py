"""Inputs of a node made of the library's settings: text, range and default stand in one place."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfy_api.latest import io

from ...ltx23_core.plan.settings import OPTIONS, size_step, wrong
from ..checks import Found, problems
from ..sockets import advanced


def widget(name: str, optional: bool = False, **more: Any) -> io.Input:  # noqa: ANN401 (ComfyUI's own arguments)
    """The input of one setting of `ltx23_core.plan.settings.OPTIONS`.

    Args:
        optional: an input that may be missing in saved workflows.
        more: what only a page needs, such as ``control_after_generate``.
    """
    option = OPTIONS[name]
    facts: dict[str, Any] = {"default": option.shown, "tooltip": option.text, "optional": optional, **more}
    if option.choices:
        made = io.Combo.Input(name, options=list(option.choices), **facts)
    elif option.kind is int:
        low = option.low
        if option.unset is not None:
            low = option.unset
        made = io.Int.Input(name, min=int(low), max=int(option.high), step=int(option.step or 1), **facts)
    else:
        made = io.Float.Input(name, min=option.low, max=option.high, step=option.step, **facts)
    return advanced(made) if option.rare else made


def judged(cls: type[io.ComfyNode], given: Mapping[str, Any]) -> Iterator[Found]:
    """What is wrong with a node's values: settings by the library's rules, others by the node's schema."""
    step = size_step(given.get("recipe"), given.get("streams"))
    yield from wrong(given, step, widgets=True).items()
    yield from problems(cls, {name: value for name, value in given.items() if name not in OPTIONS})
