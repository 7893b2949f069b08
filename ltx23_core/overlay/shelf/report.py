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
    reasons, used = [], set()
    if choice is not None:
        reasons = [f"auto: {line}" for line in (*choice.reasons, *choice.notes)]
        used = {item.identity.path for item in choice.files.values()}
    return overlay.report(reasons, _folders(items, used) if items else ())


def _folders(items: Sequence[Item], used: Collection[Path]) -> list[str]:
    """What is in the folders: first what LTX-2.3 can use, then why the others are left out."""
    usable = [item for item in items if item.identity.usable]
    others = [item for item in items if not item.identity.usable and item.identity.kind != UNREAD]
    unread = sum(item.identity.kind == UNREAD for item in items)
    lines = [f"in your folders: {len(usable)} for LTX-2.3"]
    lines += [f"  {'*' if item.identity.path in used else '-'} {item.place}: {item.identity.sentence}"
              for item in usable]
    if others:
        lines += [f"left out: {len(others)}"]
        lines += [f"  - {item.place}: {item.identity.sentence}" for item in others[:MOST_OTHERS]]
        lines += [f"  and {len(others) - MOST_OTHERS} more"] if len(others) > MOST_OTHERS else []
    return [*lines, f"not looked at yet: {unread}"] if unread else lines
