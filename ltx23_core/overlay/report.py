"""The parts of an overlay's report: what it is made of, what is missing and where to get it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .bytes.source import gigabytes
from .downloads import missing, missing_lines
from .entry import ComponentEntry


def component_lines(components: Mapping[str, ComponentEntry]) -> list[str]:
    """A line for every component that has tensors: its size, number format and source."""
    return [f"  {name}: {_component(entry)}" for name, entry in components.items() if entry.tensors]


def lack_lines(components: Iterable[str], variant: str) -> list[str]:
    """What is missing and where to get it.

    Args:
        components: those that are there.
        variant: of the weights.
    """
    lacks = missing_lines(missing(components, variant))
    if not lacks:
        return ["nothing is missing"]
    return ["missing:", *(f"  {line}" for line in lacks)]


def _component(entry: ComponentEntry) -> str:
    """Size, number format and source."""
    sizes = Counter[str]()
    for ref in entry.tensors.values():
        sizes[ref.dtype.lower()] += ref.size_bytes
    files = ", ".join(sorted({f"{ref.path.parent.name}/{ref.path.name}" for ref in entry.tensors.values()}))
    dtypes = ", ".join(f"{dtype} {gigabytes(size)}" if len(sizes) > 1 else dtype
                       for dtype, size in sizes.most_common(3))
    return f"{gigabytes(entry.size_bytes)} ({dtypes}) of {files}"
