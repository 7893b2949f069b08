"""Texts about an overlay and about what lies in the model folders, for people (spec/09 §1, §3, §8)."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .choose import Choice, missing_lines
from .identify import gigabytes
from .manifest import Overlay
from .shelf import UNREAD, Item

MOST_OTHERS = 40  # files of other models that are named one by one


def full_report(overlay: Overlay, choice: Choice, items: Sequence[Item]) -> str:
    """What was made of which files and why, what is missing and where to get it, and what else is there."""
    used = {item.identity.path: item for item in choice.files.values()}
    lines = [f"LTX {overlay.model_version} {overlay.variant}, {overlay.layout}"]
    lines += [f"auto: {reason}" for reason in choice.reasons]
    lines += ["", "components:", *_components(overlay)]
    missing = [line for line in missing_lines(choice)]
    lines += ["", "missing:" if missing else "nothing is missing", *(f"  {line}" for line in missing)]
    if overlay.notes:
        lines += ["", "notes:", *(f"  {note}" for note in overlay.notes)]
    lines += ["", *folder_lines(items, used)]
    return "\n".join([*lines, "", f"overlay {overlay.id[:12]}: {overlay.path}"])


def _components(overlay: Overlay) -> list[str]:
    """Source, size and number format of each component."""
    lines = []
    for name, entry in overlay.components.items():
        sizes = Counter[str]()
        for ref in entry.tensors.values():
            sizes[ref.dtype.lower()] += ref.size_bytes
        files = ", ".join(sorted({f"{ref.path.parent.name}/{ref.path.name}" for ref in entry.tensors.values()}))
        dtypes = ", ".join(f"{dtype} {gigabytes(size)}" if len(sizes) > 1 else dtype
                           for dtype, size in sizes.most_common(3))
        if entry.tensors:
            lines.append(f"  {name}: {gigabytes(entry.size_bytes)} ({dtypes}) of {files}")
    return lines


def folder_lines(items: Sequence[Item], used: Sequence[object] = ()) -> list[str]:
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
