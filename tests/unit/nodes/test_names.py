"""File name prefixes: marks as ComfyUI's Save nodes know them, and what no file system takes."""
from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "nodes" / "host" / "names.py"  # by its path: the package around it needs ComfyUI
NOON = time.struct_time((2026, 3, 7, 14, 5, 9, 5, 66, 0))
PROMPT = {"3": {"class_type": "LTX23Sampler", "_meta": {"title": "My sampler"},
                "inputs": {"seed": 42, "prompt": 'a "fox": red/blue', "model": ["1", 0]}}}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prefix_names", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = load()


@pytest.mark.parametrize(("prefix", "want"), [
    ("video/LTX-2.3", "video/LTX-2.3"), ("%year%-%month%-%day%/clip", "2026-03-07/clip"),
    ("%date:yyyy-MM-dd%/clip", "2026-03-07/clip"), ("%date:yy_M_d%", "26_3_7"), ("%date:hhmmss%", "140509"),
    ("%date:h.m.s%", "14.5.9"), ("%date:yyyy/MM/dd hh:mm%/a", "2026/03/07 14_05/a"),
    ("%date:dd/MM/yyyy%", "07/03/2026"), ("%hour%%minute%%second%", "140509"),
    ("%width%x%height%", "1280x704"), ("%My sampler.seed%", "42"), ("%LTX23Sampler.seed%_a", "42_a"),
    ("%LTX23Sampler.prompt%", "a _fox__ red_blue"), ("%Other.seed%", "Other.seed"),
    ("%LTX23Sampler.model%", "LTX23Sampler.model"), ("50% off", "50% off"), ("100%/a%", "100%/a%")])
def test_marks_become_words(prefix: str, want: str) -> None:
    assert NAMES.expand(prefix, 1280, 704, PROMPT, NOON) == want
    assert ":" not in want


@pytest.mark.parametrize(("prefix", "words"), [
    ("a:b", "has ':'"), ("a*", "has '*'"), ("what?", "has '?'"), ("<a>", "has '<'"), ('"a"', "has '\"'"),
    ("a|b", "has '|'"), ("a\nb", "has '\\n'"), ("%monat%", "the mark %monat%"), ("sub/CON", "a device on Windows"),
    ("lpt1.x/a", "a device on Windows"), ("a./b", "ends in a dot or a space"), ("a ", "ends in a dot or a space"),
    ("x" * 245, "a name of 245 bytes"), ("é" * 123, "a name of 246 bytes"), ("x" * 256 + "/a", "a name of 256 bytes"),
    ("%date:" + "y" * 8 + "%" * 2 + "x" * 240, "a name of")])
def test_what_no_file_can_be_called(prefix: str, words: str) -> None:
    found, expected, fix = NAMES.name_problem(prefix)
    assert words in found and expected and fix.endswith(".")


@pytest.mark.parametrize("prefix", ["video/LTX-2.3", "x" * 244, "a.b/c", "%date:yyyy-MM-dd hh_mm%/x", "héllo/日本",
                                    ".hidden", "%Sampler.seed%", "a\\b", "console", "50%"])
def test_names_that_are_fine(prefix: str) -> None:
    assert NAMES.name_problem(prefix) is None


@pytest.mark.parametrize("title", ["LTX-2.3 Sampler (video with sound)", "LTX-2.3 采样器 Sampler (video)", "Mine"])
def test_a_node_is_named_by_its_class_title_or_short_name(title: str) -> None:
    prompt = {"3": {"class_type": "LTX23Sampler", "inputs": {"seed": 7}, "_meta": {"title": title}}}
    for name in ("Sampler", "LTX23Sampler", title):
        assert NAMES.expand(f"%{name}.seed%", 8, 8, prompt) == "7"
