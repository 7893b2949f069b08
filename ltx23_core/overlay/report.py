"""The parts of an overlay's report: what it is made of, what is missing and where to get it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .bytes.source import gigabytes
from .downloads import missing, missing_lines
from .entry import ComponentEntry


def component_lines(components: Mapping[str, ComponentEntry]) -> list[str]:
    """A line for every component that has tensors: its size, number format and source."""
    lines = []
    for name, entry in components.items():
        if entry.tensors:
            lines.append(f"  {name}: {_component(entry)}")
    return lines


def lack_lines(components: Iterable[str], variant: str,
               unfinished: Mapping[str, str] | None = None) -> list[str]:
    """What is missing and where to get it.

    Args:
        components: those that are there.
        variant: of the weights.
        unfinished: component -> what to do with the broken file that would bring it.
    """
    lacks = missing_lines(missing(components, variant), unfinished=unfinished)
    if not lacks:
        return ["nothing is missing"]
    lines = ["missing:"]
    for line in lacks:
        lines.append(f"  {line}")
    return lines


def _component(entry: ComponentEntry) -> str:
    """Size, number format and source."""
    sizes = Counter[str]()
    files: set[str] = set()
    for ref in entry.tensors.values():
        sizes[ref.dtype.lower()] += ref.size_bytes
        files.add(f"{ref.path.parent.name}/{ref.path.name}")
    return f"{gigabytes(entry.size_bytes)} ({_formats(sizes)}) of {', '.join(sorted(files))}"


def _formats(sizes: Counter[str]) -> str:
    """The number formats with most bytes; with their sizes where there are several."""
    if len(sizes) == 1:
        return next(iter(sizes))
    return ", ".join(f"{dtype} {gigabytes(size)}" for dtype, size in sizes.most_common(3))
