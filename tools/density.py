"""How folded the lines are: conditional expressions, comprehensions and long lines per 1,000 code lines, by room.

    python -m tools.density     print a table
"""
from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

from .rooms import modules

LONGEST = 110
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Rates(NamedTuple):
    """Per 1,000 code lines."""

    conditionals: float
    comprehensions: float
    long: float

    def __le__(self, other: Rates) -> bool:
        """Each of them, not the first that differs."""
        return all(own <= limit for own, limit in zip(self, other, strict=True))


LIMITS = Rates(15, 20, 20)
# Rooms that keep the limits; a room that comes to keep them is added here.
UNFOLDED = (
    "ltx23_core",
    "ltx23_core/cli",
    "ltx23_core/conditioning",
    "ltx23_core/decode",
    "ltx23_core/hub",
    "ltx23_core/lora",
    "ltx23_core/media",
    "ltx23_core/memory",
    "ltx23_core/models",
    "ltx23_core/models/audio",
    "ltx23_core/models/text",
    "ltx23_core/models/transformer",
    "ltx23_core/ops",
    "ltx23_core/models/video_vae",
    "ltx23_core/overlay",
    "ltx23_core/overlay/bytes",
    "ltx23_core/overlay/export",
    "ltx23_core/overlay/find",
    "ltx23_core/overlay/lora",
    "ltx23_core/overlay/names",
    "ltx23_core/overlay/packed",
    "ltx23_core/overlay/shelf",
    "ltx23_core/plan",
    "ltx23_core/prompt",
    "ltx23_core/quant",
    "ltx23_core/run",
    "ltx23_core/runtime",
    "ltx23_core/sampling",
    "nodes",
    "nodes/conditions",
    "nodes/host",
    "nodes/model",
    "nodes/output",
    "nodes/prompt",
    "nodes/sampling",
)


@dataclass(frozen=True)
class Count:
    """What stands in some code; docstrings, comments and empty lines are no code lines."""

    code: int = 0
    conditionals: int = 0
    comprehensions: int = 0
    long: int = 0

    def __add__(self, other: Count) -> Count:
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return Count(**sums)

    def rates(self) -> Rates:
        """Per 1,000 code lines, to one place."""
        found = (self.conditionals, self.comprehensions, self.long)
        return Rates(*(round(1000 * number / self.code, 1) for number in found))


def _docstring_lines(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            yield from range(node.body[0].lineno, node.body[0].end_lineno + 1)


def count_of(text: str) -> Count:
    """The count of one file's text."""
    tree = ast.parse(text)
    documented = set(_docstring_lines(tree))
    kinds = [type(node) for node in ast.walk(tree)]
    code = []
    for number, line in enumerate(text.splitlines(), 1):
        if number not in documented and line.strip() and not line.strip().startswith("#"):
            code.append(line)
    return Count(
        code=len(code),
        conditionals=kinds.count(ast.IfExp),
        comprehensions=sum(map(kinds.count, COMPREHENSIONS)),
        long=sum(len(line) > LONGEST for line in code),
    )


@cache
def room_counts() -> dict[str, Count]:
    """Folder, below the root -> the count of its files."""
    found: dict[str, Count] = {}
    for name, file in modules().items():
        parts = name.split(".")
        folder = "/".join(parts if file.name == "__init__.py" else parts[:-1])
        found[folder] = found.get(folder, Count()) + count_of(file.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    for room, count in room_counts().items():
        print(f"{room:34} {count.code:6} {count.rates()}")
    total = sum(room_counts().values(), Count())
    print(f"{'all':34} {total.code:6} {total.rates()}")
