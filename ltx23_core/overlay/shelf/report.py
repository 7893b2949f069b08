"""The report on an overlay, for people: what it is made of and why, what is missing and where to get it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .downloads import missing, missing_lines
from .identity import gigabytes
from .shelf import UNREAD

if TYPE_CHECKING:
    from ..manifest import ComponentEntry, Overlay
    from .choose import Choice
    from .shelf import Item

MOST_OTHERS = 40  # files of other models that are named one by one


def report(overlay: Overlay, choice: Choice | None = None, items: Sequence[Item] = ()) -> str:
    """Layout, variant, every component's source, size and number format, and what is missing.

    Args:
        overlay: to report on.
        choice: how its files were chosen, if they were.
        items: everything in the model folders, if they were looked at.
    """
    lines = [f"LTX {overlay.model_version} {overlay.variant}, {overlay.layout}"]
    lines += [f"auto: {line}" for line in (*choice.reasons, *choice.notes)] if choice else []
    lines += ["", "components:", *(f"  {name}: {_component(entry)}" for name, entry in overlay.components.items()
                                   if entry.tensors)]
    lacks = missing_lines(missing(overlay.components, overlay.variant))
    lines += ["", "missing:" if lacks else "nothing is missing", *(f"  {line}" for line in lacks)]
    if overlay.notes:
        lines += ["", "notes:", *(f"  {note}" for note in overlay.notes)]
    if items:
        lines += ["", *_folders(items, {item.identity.path for item in choice.files.values()} if choice else ())]
    return "\n".join([*lines, "", f"overlay {overlay.id[:12]}: {overlay.path}"])


def _component(entry: ComponentEntry) -> str:
    """Size, number format and source."""
    sizes = Counter[str]()
    for ref in entry.tensors.values():
        sizes[ref.dtype.lower()] += ref.size_bytes
    files = ", ".join(sorted({f"{ref.path.parent.name}/{ref.path.name}" for ref in entry.tensors.values()}))
    dtypes = ", ".join(f"{dtype} {gigabytes(size)}" if len(sizes) > 1 else dtype
                       for dtype, size in sizes.most_common(3))
    return f"{gigabytes(entry.size_bytes)} ({dtypes}) of {files}"


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
