"""The report on an overlay, with why its files were taken and what else lies in the model folders."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .shelf import UNREAD

if TYPE_CHECKING:
    from ..manifest import Overlay
    from .choose import Choice
    from .shelf import Item

MOST_OTHERS = 40  # files of other models that are named one by one


def report(overlay: Overlay, choice: Choice | None = None, items: Sequence[Item] = ()) -> str:
    """`Overlay.report`, with how its files were chosen and what else is there.

    Args:
        overlay: to report on.
        choice: how its files were chosen, if they were.
        items: everything in the model folders, if they were looked at.
    """
    reasons: list[str] = []
    used: set[Path] = set()
    folders: Sequence[str] = ()
    unfinished: dict[str, str] = {}
    if choice is not None:
        reasons = [f"auto: {line}" for line in (*choice.reasons, *choice.notes)]
        unfinished = choice.unfinished
        used.update(item.identity.path for item in choice.files.values())
    if items:
        folders = _folders(items, used)
    return overlay.report(reasons, folders, unfinished)


def _folders(items: Sequence[Item], used: Collection[Path]) -> list[str]:
    """What is in the folders: first what LTX-2.3 can use, then why the others are left out."""
    usable, others, unread = [], [], 0
    for item in items:
        line = f"{item.place}: {item.identity.sentence}"
        if item.identity.usable:
            mark = "-"
            if item.identity.path in used:
                mark = "*"
            usable.append(f"  {mark} {line}")
        elif item.identity.kind == UNREAD:
            unread += 1
        else:
            others.append(f"  - {line}")
    lines = [f"in your folders: {len(usable)} for LTX-2.3", *usable]
    if others:
        lines += [f"left out: {len(others)}", *others[:MOST_OTHERS]]
    if len(others) > MOST_OTHERS:
        lines.append(f"  and {len(others) - MOST_OTHERS} more")
    if unread:
        lines.append(f"not looked at yet: {unread}")
    return lines
