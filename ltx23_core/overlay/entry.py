"""One component of an overlay: its configuration and where its tensors are."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .bytes.source import AnyRef


@dataclass(frozen=True)
class ComponentEntry:
    """One component: its configuration and where its tensors are.

    Args:
        config: what `models.registry.build` takes.
        tensors: parameter name -> byte range, or several of a quantised weight.
    """

    config: dict[str, Any]
    tensors: dict[str, AnyRef]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        return sum(ref.size_bytes for ref in self.tensors.values())
