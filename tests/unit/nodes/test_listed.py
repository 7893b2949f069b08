"""Names from clients: refused on every system where any system would leave the folder, or open something else."""
from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx23_core.overlay.shelf.shelf import walk
from tests.support.node_modules import node_module, with_comfyui

names = node_module("nodes.host.listed")
OverlayError = node_module("ltx23_core.errors").OverlayError
ROOTS = PureWindowsPath("C:\\Comfy\\models\\loras"), PurePosixPath("/srv/models/loras")

GOOD = ["x.safetensors", "sub/x.safetensors", "sub\\x.safetensors", "my ltx-dev dév.safetensors", "a/b/c/d.gguf",
        "models--org--name/snapshots/0123/x.safetensors", "x (1).safetensors", "連.safetensors", "console.safetensors",
        "comb1.safetensors", "a.b.c", "[style] x's.safetensors", "what?.safetensors", "gemma", "%2e%2e/x"]
BAD = ["", "/x.safetensors", "\\x.safetensors", "//server/share/x", "\\\\server\\share\\x", "\\\\?\\C:\\x",
       "\\\\.\\NUL",
       "C:\\x", "C:/x", "C:x", "c:x.safetensors", "../x", "..\\x", "a/../../x", "a\\..\\x", "..", ".", "a/..", "./x",
       "a/./x", "a//x", "a/", "x.safetensors:stream", "x.safetensors::$DATA", ".hidden", "a/.git/x", "x\0.safetensors",
       "x\n", "\x1b[2J", "x\u202e", "NUL", "nul.safetensors", "a/CON", "Aux.txt", "com1", "LPT9.gguf", "COM¹", "CONIN$",
       "nul .txt", "... ", "..  /x", "x.safetensors.", "x.safetensors ", "a /x", "a./x",
       "~/.ssh/id".replace("/.ssh", "/.x"), "x" * 1001, "file:///etc/passwd", "http://a/b"]


@pytest.mark.parametrize("name", GOOD)
def test_names_of_lists(name: str) -> None:
    plain = names.listed_name(name, "lora")
    assert plain == name.replace("\\", "/")


@pytest.mark.parametrize("name", BAD)
def test_other_names(name: str) -> None:
    with pytest.raises(OverlayError, match="^lora is no name of a list: .*Choose a file of the list") as refused:
        names.listed_name(name, "lora")
    assert len(str(refused.value)) < 600


@given(st.text(max_size=30) | st.text("./\\:aC~ \0", max_size=12) | st.from_regex(r"[a-c./\\: ]{1,9}", fullmatch=True))
def test_what_passes_stays_below_the_folder(name: str) -> None:
    """On any system, as `pathlib` of that system joins it."""
    try:
        plain = names.listed_name(name, "lora")
    except OverlayError:
        return
    for root in ROOTS:
        path = root / plain
        assert path.is_relative_to(root) and path != root and ".." not in path.parts
        assert path.drive == root.drive and path.root == root.root
        assert len(path.parts) == len(root.parts) + len(plain.split("/"))
    assert not any(getattr(PureWindowsPath(part), "is_reserved", lambda: False)() for part in plain.split("/"))


def test_all_that_a_look_yields_can_be_named(tmp_path: Path) -> None:
    for name in GOOD:
        if "\\" not in name and name.endswith((".safetensors", ".gguf")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    found = list(walk(tmp_path))
    assert len(found) >= 9
    for name in found:
        assert names.listed_name(name, "lora") == name


def test_a_name_is_new_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 10, 10.5, 11.5, 12, 12.1, 13, 13.1])
    monkeypatch.setattr(names.time, "monotonic", lambda: next(clock))
    lately = names.Lately()
    assert not lately.is_new("lora", "b") and not lately.is_new("lora", ["b"])
    lately.note("lora", ["a"])  # 0
    lately.note("lora", ["a", "b"])  # 10
    assert lately.is_new("lora", "b")
    assert not lately.is_new("lora", "b") and not lately.is_new("lora", "a") and not lately.is_new("vae", "b")
    lately.note("lora", ["a"])  # 12.1
    lately.note("lora", ["a", "b"])  # 13: taken away and back
    assert lately.is_new("lora", "b")


def test_a_file_that_came_between_the_hosts_questions_is_asked_for() -> None:
    """ComfyUI takes the list, a look ends, ComfyUI asks which inputs we judge: it must not go by its own list then."""
    with_comfyui()
    validator = node_module("nodes.validation").Validator(("checkpoint",), (), lambda *_: iter(()), None)

    class Node:
        listed = ["auto"]

        @classmethod
        def define_schema(cls) -> SimpleNamespace:
            names.LATELY.note("audio_vae", cls.listed)
            return SimpleNamespace(inputs=[SimpleNamespace(id="audio_vae", options=cls.listed)])

    validator.node = Node
    given_now = {"audio_vae": "new.safetensors"}
    assert validator._unlisted(given_now) == ["audio_vae"]
    Node.define_schema()  # the host's list
    Node.listed = ["auto", "new.safetensors"]
    assert validator._unlisted(given_now) == ["audio_vae"]
    names.LATELY._since["audio_vae"] = dict.fromkeys(Node.listed, 0.0)
    assert validator._unlisted(given_now) == []
