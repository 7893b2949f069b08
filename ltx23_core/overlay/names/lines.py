"""Names of a file in the form that patterns are searched in: one a line, in pieces that hold nobody up."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Characters that one search looks at. Python's other threads wait while a pattern is searched: 2 ms for so many.
PIECE = 1 << 16


class Lines:
    """Names, each once, in the order given.

    Args:
        names: without line breaks.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(dict.fromkeys(names))
        self._pieces = list(_pieces(self.names))

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.names)

    def search(self, pattern: str) -> re.Match[str] | None:
        """The first match in a name; ``^`` and ``$`` are its beginning and end."""
        compiled = re.compile(pattern, re.M)
        for piece in self._pieces:
            if found := compiled.search(piece):
                return found
        return None

    def has(self, pattern: str) -> bool:
        """Whether some name matches."""
        return self.search(pattern) is not None


def _pieces(names: list[str]) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for name in names:
        piece.append(name)
        size += len(name)
        if size >= PIECE:
            yield "\n".join(piece)
            piece, size = [], 0
    if piece:
        yield "\n".join(piece)
