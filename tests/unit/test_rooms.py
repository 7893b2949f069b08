"""The house: what each room may import (`tools/rooms.py`), no circle anywhere, small folders, one sentence a room."""
from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache

import pytest

from tools.rooms import (
    DEBTS,
    DOCUMENT,
    FACTS,
    LARGEST_FOLDER,
    ROOMS,
    Import,
    circle,
    graph,
    modules,
    picture,
    reached,
    reduced,
    room_of,
)

FILES = modules()


@cache
def everything() -> tuple[Import, ...]:
    """All imports, read once."""
    return graph()


def allowed(one: Import) -> bool:
    """Whether the list lets a module import another one."""
    room, target = (room_of(name, FILES) for name in (one.importer, one.target))
    if room == target or target == "facts":
        return True
    return target in ROOMS.get(room, ())


def test_every_module_is_in_a_room_of_the_list() -> None:
    rooms = {room_of(name, FILES) for name in FILES}
    assert rooms <= {*ROOMS, "facts", "face"}
    assert len(rooms) > 20  # it found them
    assert len(everything()) > 700


def test_imports_obey_the_list() -> None:
    """Imports for types and inside functions count as well."""
    broken = [one for one in everything() if room_of(one.importer, FILES) != "face" and not allowed(one)
              and (one.importer, one.target) not in DEBTS]
    assert not broken, "\n".join(f"{one.importer}:{one.line} imports {one.target}" for one in broken)


def edges_of(imports) -> dict[str, set[str]]:
    """Module -> modules that it imports; the re-export of a package by itself is no edge."""
    edges: dict[str, set[str]] = defaultdict(set)
    for one in imports:
        if one.importer != one.target:
            edges[one.importer].add(one.target)
    return edges


def test_a_debt_that_is_paid_is_struck_off() -> None:
    edges = edges_of(everything())
    there = {(one.importer, one.target) for one in everything()
             if not allowed(one) or one.importer in reached(edges, one.target)}
    assert there >= DEBTS, f"no longer there, strike them off: {sorted(DEBTS - there)}"


def test_every_target_is_a_module_of_ours() -> None:
    """A relative import of something that is not there would otherwise be no edge."""
    lost = [one for one in everything() if one.target not in FILES]
    assert not lost


def test_facts_and_the_face_stand_alone() -> None:
    """Facts use facts; the face is what the library's own rooms never import."""
    for one in everything():
        if room_of(one.importer, FILES) == "facts":
            assert room_of(one.target, FILES) == "facts", one
    inside = [one for one in everything() if one.target == "ltx23_core" and one.importer.startswith("ltx23_core")]
    assert not inside, inside


def test_only_host_imports_comfyui() -> None:
    """`comfy_api` is the nodes' language; everything else of ComfyUI stands in one folder."""
    host = {"comfy", "folder_paths", "server", "execution", "nodes"}
    for name, file in FILES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                found = [node.module]
            roots = {each.partition(".")[0] for each in found}
            assert not roots & host or name.startswith("nodes.host"), f"{name}:{node.lineno} imports {roots & host}"
            assert "comfy_api" not in roots or name.startswith("nodes"), name


def test_no_circle_of_modules() -> None:
    """Imports for types count."""
    unpaid = (one for one in everything() if (one.importer, one.target) not in DEBTS)
    assert not circle(edges_of(unpaid))


def test_no_circle_of_rooms() -> None:
    assert not circle({room: set(targets) for room, targets in ROOMS.items()})
    edges: dict[str, set[str]] = defaultdict(set)
    for one in everything():
        room, target = (room_of(name, FILES) for name in (one.importer, one.target))
        if room != target and (one.importer, one.target) not in DEBTS:
            edges[room].add(target)
    assert not circle(edges)


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ("a", "b", "c", "a")
    assert circle({"a": {"b"}, "b": {"c"}}) == ()


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES.values()}), ids=lambda path: path.name)
def test_a_folder_is_small_and_says_what_it_is_for(folder) -> None:
    files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
    assert len(files) <= LARGEST_FOLDER
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert first.endswith((".", ":", "`.")) and len(first.split()) >= 3


def test_the_facts_are_there() -> None:
    assert {name for name in FACTS if f"ltx23_core.{name}" in FILES} >= {"errors", "geometry", "config"}


def test_the_picture_is_made_of_the_list() -> None:
    """`python -m tools.rooms` writes it; it leads everywhere that the list does."""
    assert picture() in DOCUMENT.read_text(encoding="utf-8")
    arrows = {room: set(targets) for room, targets in reduced().items()}
    for room, targets in ROOMS.items():
        assert reached(arrows, room) >= set(targets)
