"""The graph that a client asked for, while the server checks it: the check of one node is told of that node alone.

ComfyUI calls its "on prompt" handlers, an extension point of its own, in the task that then checks the graph, so what
is kept here belongs to that request.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from comfy_execution.utils import get_executing_context

Node = Mapping[str, Any]  # class_type and inputs, as clients send them
_ASKED: ContextVar[Mapping[str, Any]] = ContextVar("ltx23_asked", default={})  # noqa: B039 (never changed)
_LOOKED_AT: ContextVar[str] = ContextVar("ltx23_looked_at", default="")


def watch() -> None:
    """Have the server tell of every request; nothing happens where there is no server (unit tests)."""
    server = _server()
    if hasattr(server, "add_on_prompt_handler"):
        server.add_on_prompt_handler(remember)


def _server() -> Any:  # noqa: ANN401 (ComfyUI's PromptServer)
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def remember(request: dict[str, Any]) -> dict[str, Any]:
    """Keep a request of POST /prompt for those who check its graph; it goes on unchanged."""
    _ASKED.set(request)
    return request


def graph() -> dict[str, Node]:
    """The graph that is being checked, without what is no node; empty where that is not known."""
    nodes = _ASKED.get().get("prompt")
    found: dict[str, Node] = {}
    if isinstance(nodes, dict):
        for key, node in nodes.items():
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
                found[str(key)] = node
    return found


def taken_outputs() -> frozenset[int] | None:
    """Outputs that other nodes take of the node that runs, or that ComfyUI looks for in its cache; None: not known."""
    context, queue = get_executing_context(), getattr(_server(), "prompt_queue", None)
    if context is None or not hasattr(queue, "get_current_queue_volatile"):
        return None
    for _, prompt_id, nodes, *_ in queue.get_current_queue_volatile()[0]:
        if prompt_id == context.prompt_id and str(context.node_id) in nodes:
            return taken_of(nodes, str(context.node_id))
    return None


def taken_of(nodes: Mapping[str, Node], key: str) -> frozenset[int]:
    """Outputs of a node that other nodes of a graph take."""
    found = set()
    for node in nodes.values():
        for name in node["inputs"]:
            origin = link(node, name)
            if origin is not None and origin[0] == key:
                found.add(origin[1])
    return frozenset(found)


@contextmanager
def looking_at(key: str) -> Iterator[None]:
    """Within this, `own_id` is that of a node of the graph which the server has not come to."""
    token = _LOOKED_AT.set(key)
    try:
        yield
    finally:
        _LOOKED_AT.reset(token)


def of_kind(kind: str) -> dict[str, Node]:
    """The nodes of one class in the graph that is being checked."""
    return {key: node for key, node in graph().items() if node.get("class_type") == kind}


def own_id() -> str:
    """The id of the node that is being checked, "" where the server does not say."""
    if _LOOKED_AT.get():
        return _LOOKED_AT.get()
    context = get_executing_context()
    if context is None:
        return ""
    return str(context.node_id)


def constants(node: Node) -> dict[str, Any]:
    """The inputs of a node that are no links."""
    return {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}


def link(node: Node, name: str) -> tuple[str, int] | None:
    """Where a linked input comes from: (node, output); None where it is no link."""
    value = node["inputs"].get(name)
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
        return str(value[0]), value[1]
    return None


def will_run() -> set[str]:
    """The nodes that the request makes run: those that an output node depends on."""
    import nodes as comfy_nodes

    nodes, wanted = graph(), _ASKED.get().get("partial_execution_targets")
    ends = []
    for key, node in nodes.items():
        kind = comfy_nodes.NODE_CLASS_MAPPINGS.get(node.get("class_type"))
        if getattr(kind, "OUTPUT_NODE", False) is True and (wanted is None or key in wanted):
            ends.append(key)
    return set(_before(nodes, ends))


def _before(nodes: Mapping[str, Node], ends: list[str]) -> Iterator[str]:
    """Nodes, and all that they depend on; each once."""
    seen: set[str] = set()
    while ends:
        key = ends.pop()
        if key in seen or key not in nodes:
            continue
        seen.add(key)
        yield key
        for name in nodes[key]["inputs"]:
            origin = link(nodes[key], name)
            if origin is not None:
                ends.append(origin[0])
