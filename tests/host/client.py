"""What host and browser tests ask of a server: the tools' client, and runs of a prompt with all that was seen."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.client import Client, ClientError, Event, Graph

TEXT_FRAME = 3  # ComfyUI's kind of binary message for texts of nodes
__all__ = ["ClientError", "Event", "Graph", "HostClient", "Run"]


@dataclass
class Run:
    """One finished prompt: what the websocket told, and the server's history entry."""

    prompt_id: str
    events: list[Event] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a type, in order."""
        return [event.data for event in self.events if event.type == kind]

    @property
    def ok(self) -> bool:
        """Whether the prompt ran to its end."""
        return self.events[-1].type == "execution_success"

    @property
    def interrupted(self) -> bool:
        """Whether /interrupt ended it."""
        return self.events[-1].type == "execution_interrupted"

    @property
    def error(self) -> dict[str, Any] | None:
        """The data of execution_error (exception_message, node_id, ...), or None."""
        return self.events[-1].data if self.events[-1].type == "execution_error" else None

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that really ran, in order; cached ones are not in it."""
        return [data["node"] for data in self.of_type("executing") if data.get("node")]

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes whose result came from the cache."""
        return {node for data in self.of_type("execution_cached") for node in data["nodes"]}

    @property
    def previews(self) -> list[Event]:
        """Previews, in order: `image` is the file, `data` has node_id and image_type."""
        return [event for event in self.events if event.type == "preview"]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(node, text) of every text that a node showed while it ran, in order."""
        found = []
        for event in self.events:
            if event.type == "binary" and event.data["kind"] == TEXT_FRAME:
                size = int.from_bytes(event.image[:4], "big")
                found.append((event.image[4:4 + size].decode(), event.image[4 + size:].decode()))
        return found

    def progress(self, node: str) -> list[tuple[float, float]]:
        """(value, max) pairs that a node reported through `progress_state`; do not count them, hosts thin them out."""
        states = [data["nodes"][node] for data in self.of_type("progress_state") if node in data["nodes"]]
        return [(state["value"], state["max"]) for state in states]

    @property
    def outputs(self) -> dict[str, Any]:
        """Node id -> its ui dictionary."""
        return self.history["outputs"]

    def results(self, kind: str = "images") -> list[dict[str, str]]:
        """All entries (filename, subfolder, type) of a kind, of all output nodes; SaveVideo files them as images."""
        return [entry for ui in self.outputs.values() for entry in ui.get(kind, [])]


class HostClient(Client):
    """The client of a test server whose folders are on this machine."""

    def __init__(self, url: str, base: Path, timeout: float = 120) -> None:
        """Args: address, the server's base folder, seconds that any single answer or event may take."""
        super().__init__(url, timeout)
        self.base = base

    def run(self, graph: Graph, extra: dict[str, Any] | None = None) -> Run:
        """Queue a graph and follow it to its end, however that ends; see `Run.ok`.

        Raises:
            ClientError: the server refused the graph (`status`, `body`).
        """
        return self.follow(self.queue(graph, extra))

    def follow(self, prompt_id: str) -> Run:
        """Follow a queued prompt to its end."""
        events = list(self.events(prompt_id))
        return Run(prompt_id, events, self.history(prompt_id))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """POST /interrupt."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """POST /free; the worker does it between prompts, so wait for what you expect.

        `free_memory` unloads too, and is sent alone: of two flags the worker may see the first one, and the second
        only after the next prompt.
        """
        self.post("/free", {"free_memory": True} if free_memory else {"unload_models": unload_models})

    def node_info(self, name: str) -> dict[str, Any]:
        """GET /object_info/NAME for one class; {} where the server does not know it."""
        return self.get(f"/object_info/{name}").get(name, {})

    def file(self, entry: dict[str, str]) -> Path:
        """The file on disk of an entry of `Run.results`."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]
