"""Inputs of a node made of the library's settings: text, range and default stand in one place."""
from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...ltx23_core.plan.settings import OPTIONS, refusal, size_step
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


def problem(values: dict[str, Any]) -> str | None:
    """All that is wrong with a node's settings, as one sentence, or None; a linked input is None here."""
    step = size_step(values.get("recipe"), values.get("streams"))
    error = refusal(values, step, widgets=True)
    return None if error is None else str(error)
