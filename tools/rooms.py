"""The rooms of this house and what each may import: the one list that the test reads and the picture is made from.

    python -m tools.rooms     write the picture into docs/architecture.md
"""
from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ltx23_core", "nodes")
LARGEST_FOLDER = 13
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: python -m tools.rooms -->", "<!-- end of rooms -->"

# The facts: every room may use them.
FACTS = ("errors", "geometry", "config", "atomic", "locks", "version")
# Files that stand alone in ltx23_core, and the room that each is.
SINGLE = {"pipeline": "pipeline", "shared": "pipeline", "coding": "pipeline", "words": "pipeline",
          "arithmetic": "pipeline", "save": "save", "__main__": "cli"}

# Room -> rooms that it may import, lowest first. A folder below a room belongs to the nearest room above it.
ROOMS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "ops": (),
    "hub": (),
    "media": ("ops",),
    "models": ("ops", "memory"),
    "overlay.bytes": (),
    "overlay.packed": ("overlay.bytes",),
    "overlay.names": ("overlay.bytes", "overlay.packed", "models"),
    "overlay.lora": ("overlay.bytes", "overlay.names"),
    "overlay.find": ("overlay.bytes", "overlay.packed", "overlay.names", "overlay.lora"),
    "overlay": ("overlay.bytes", "overlay.packed", "overlay.names", "overlay.find", "hub"),
    "overlay.shelf": ("overlay.bytes", "overlay.packed", "overlay.names", "overlay", "hub", "memory"),
    "overlay.export": ("overlay.bytes", "overlay.packed", "overlay.names", "overlay"),
    "weights": ("overlay.bytes", "overlay.packed", "memory", "ops"),
    "lora": ("overlay.lora", "overlay", "overlay.bytes", "weights"),
    "quant": ("overlay.bytes", "overlay.packed", "weights", "lora", "ops", "memory"),
    "runtime": ("overlay.bytes", "overlay.packed", "overlay.names", "weights", "lora", "quant", "ops", "memory"),
    "save": ("overlay", "overlay.bytes", "overlay.export", "weights", "runtime"),
    "bridge": ("overlay", "overlay.bytes", "overlay.names", "overlay.find", "overlay.export", "weights"),
    "plan": ("memory", "media"),
    "sampling": ("plan", "models", "ops"),
    "conditioning": ("plan", "sampling", "media", "overlay.bytes"),
    "prompt": ("models", "overlay", "overlay.bytes", "overlay.find", "media"),
    "decode": ("models", "media", "memory"),
    "run": ("plan", "sampling", "conditioning", "media", "ops"),
    "parallel": ("run", "sampling", "plan", "models", "ops", "weights", "runtime", "decode", "memory"),
    "pipeline": ("memory", "ops", "media", "models", "overlay", "overlay.bytes", "overlay.packed", "overlay.names",
                 "overlay.lora", "overlay.find", "weights", "lora", "quant", "runtime", "plan", "sampling",
                 "conditioning", "prompt", "decode", "run", "parallel"),
    "workers": ("pipeline", "plan", "media", "overlay", "lora", "runtime", "run", "parallel"),
    "cli": ("pipeline", "plan", "run", "conditioning", "media", "decode", "overlay", "overlay.shelf",
            "overlay.export", "save", "hub", "lora", "workers"),
    "nodes": ("pipeline", "plan", "run", "conditioning", "media", "decode", "overlay", "overlay.shelf",
              "overlay.export", "save", "hub", "lora", "workers", "nodes.host"),
    "nodes.host": ("memory", "pipeline", "plan", "run", "media", "overlay", "overlay.shelf", "runtime", "bridge"),
}

# Imports that break the list or close a circle: (module, module that it imports). This list only shrinks.
DEBTS: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Import:
    """One import of one module by another, both of ours; in a function or for types alone counts as well."""

    importer: str
    line: int
    target: str


def modules() -> dict[str, Path]:
    """Every module of the two packages -> its file."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def room_of(module: str, files: Mapping[str, Path]) -> str:
    """The room of a module; "facts" and "face" (the package itself) are none of the list."""
    package, _, rest = module.partition(".")
    if package == "nodes":
        return "nodes.host" if rest.startswith("host") else "nodes"
    if not rest:
        return "face"
    if rest in FACTS:
        return "facts"
    if rest in SINGLE:
        return SINGLE[rest]
    folder = rest if files[module].name == "__init__.py" else rest.rpartition(".")[0]
    while folder and folder not in ROOMS:
        folder = folder.rpartition(".")[0]
    return folder or rest


def imports(module: str, files: Mapping[str, Path]) -> Iterator[Import]:
    """What a module imports of ours, wherever the import stands."""
    file = files[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[:len(package) - node.level + 1]
        target = ".".join([*base, *filter(None, [node.module])])
        for name in node.names:
            whole = f"{target}.{name.name}"
            yield Import(module, node.lineno, whole if whole in files else target)


def graph() -> tuple[Import, ...]:
    """Every import between two modules of ours."""
    files = modules()
    return tuple(one for module in files for one in imports(module, files))


def reached(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """Every name that a walk along the edges from one name comes to."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def circle(edges: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The names of one circle of a graph, in order, the first again at the end; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name):], name)
        if name in done:
            return ()
        for target in sorted(edges.get(name, ())):
            found = walk(target, [*path, name])
            if found:
                return found
        done.add(name)
        return ()

    return next(filter(None, (walk(name, []) for name in sorted(edges))), ())


def reduced() -> dict[str, list[str]]:
    """Room -> rooms that it imports and that no other room which it imports leads to: the arrows of the picture."""
    edges = {room: set(targets) for room, targets in ROOMS.items()}
    found = {}
    for room, targets in edges.items():
        behind = {name for target in targets for name in reached(edges, target)}
        found[room] = sorted(targets - behind)
    return found


def picture() -> str:
    """The rooms and their arrows as a Mermaid diagram, from what uses to what is used."""
    lines = [BEGIN, "```mermaid", "flowchart TD"]
    for room, targets in reduced().items():
        name = room.replace(".", "_")
        lines.append(f'    {name}["{room}"]')
        lines.extend(f"    {name} --> {target.replace('.', '_')}" for target in targets)
    return "\n".join([*lines, "```", END])


def write_picture() -> None:
    """Put the picture into the document, between its two marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(before + picture() + after, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_picture()
