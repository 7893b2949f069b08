"""A fact of a format, told by its literal, stands in one module of the library."""
from __future__ import annotations

import ast
import re

import pytest

from tools.rooms import modules

# A literal -> the module that states it.
HOMES = {
    r"-of-(?!means)": "ltx23_core.overlay.bytes.endings",
    r"^tokenizer\.(json|model)$": "ltx23_core.overlay.bytes.endings",
    r"sglang_overlay": "ltx23_core.overlay.bytes.endings",
    r"\.index\.json": "ltx23_core.overlay.bytes.endings",
    r"^\.(sft|ckpt|crdownload|aria2)$": "ltx23_core.overlay.bytes.endings",
}
ALONE = "ltx23_core.hub."  # knows nothing of the overlay, and asks servers by these names


def literals(text: str) -> list[str]:
    """The texts of a module, docstrings apart; parts of f-strings too."""
    tree = ast.parse(text)
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented.add(id(node.value))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and id(node) not in documented]


@pytest.mark.parametrize("pattern", HOMES)
def test_a_literal_of_a_format_stands_in_one_module(pattern: str) -> None:
    wanted = re.compile(pattern)
    found = {name for name, file in modules().items() if not name.startswith(ALONE)
             and any(map(wanted.search, literals(file.read_text(encoding="utf-8"))))}
    assert found == {HOMES[pattern]}


def test_a_second_home_would_be_seen() -> None:
    """Docstrings are no facts; a part of an f-string is one."""
    assert literals('"""a-of-b"""\nx = f"{1}-of-{2}"\n') == ["-of-"]
