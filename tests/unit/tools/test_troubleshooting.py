"""docs/troubleshooting.md and the code's error messages cover each other."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ...support.tiny_model import ROOT

DOCUMENT = ROOT / "docs" / "troubleshooting.md"
GAP = "…"
LETTERS = 5  # a message with fewer of its own is made of parts that stand elsewhere


def plain(node: ast.expr) -> str:
    """The text of a string expression, with a gap for every value put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(plain(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return plain(node.left) + plain(node.right)
    if isinstance(node, ast.IfExp):
        return f"{plain(node.body)}\n{plain(node.orelse)}"
    return GAP


def squeeze(text: str) -> str:
    """Comparable form: gaps swallow the punctuation around values and each other."""
    return re.sub(r"[\s…\"'()]*…[\s…\"'()]*", " … ", text).strip()


def messages() -> Iterator[tuple[str, str]]:
    """(place, first part of the message) of every error that the pack raises."""
    for path in sorted([*(ROOT / "ltx23_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 3 and (
                    re.fullmatch(r"[A-Z]\w+Error", node.func.id)):
                for text in plain(node.args[0]).splitlines():
                    if sum(c.isalpha() for c in text) >= LETTERS:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def keys() -> list[str]:
    """What the first column of the tables quotes."""
    rows = re.findall(r"^\| (.*?) \| .*\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row)]


def matches(key: str, text: str) -> bool:
    """Whether a key is the beginning of a message; its gaps stand where the message has values."""
    text = squeeze(text)
    return any(start.startswith(squeeze(key)) for start in (text, text.removeprefix(f"{GAP} ")))


def test_every_message_is_explained() -> None:
    known = keys()
    missing = [f"{place}: {text}" for place, text in messages() if not any(matches(key, text) for key in known)]
    assert not missing, f"add these to {DOCUMENT.relative_to(ROOT)}:\n" + "\n".join(missing)


def test_no_explanation_is_out_of_date() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in [*(ROOT / "ltx23_core").rglob("*.py"),
                                                                      *(ROOT / "nodes").rglob("*.py")])
    strings = [squeeze(plain(node)) for node in ast.walk(ast.parse(sources.replace("from __future__", "from x")))
               if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))]
    for key in keys():
        words = max(squeeze(key).split(GAP), key=len).strip()
        assert any(words in text for text in strings), f"no message says {key!r} any more"
