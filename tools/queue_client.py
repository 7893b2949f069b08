"""Submit a graph to ComfyUI's queue, follow it, fetch what it made: standard library only, any machine.

    python -m tools.queue_client http://127.0.0.1:8188 workflows/api/quick_start.json Sampler.seed=7 -o results

`docs/queue.md` explains it, and the same with curl.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.client import Client, ClientError, Graph

KINDS = ("images", "video", "gifs", "audio")  # of a node's result, where files are listed
TEXT_FRAME = 3  # ComfyUI's kind of binary message for what a node says while it runs


def name_of(node: Mapping[str, Any]) -> str:
    """What people call a node: its title without "LTX-2.3" and brackets; else its class without LTX23."""
    title = str(node.get("_meta", {}).get("title", ""))
    return re.sub(r"\s*\(.*\)$", "", title.removeprefix("LTX-2.3 ")) or node["class_type"].removeprefix("LTX23")


def with_values(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """A copy of a graph with some inputs changed.

    Args:
        graph: in API form.
        values: by "Node.input": the node's title or class ("Sampler.seed"), or its id where two are called the same.

    Raises:
        ClientError: no such node or input, or several; the message lists what there is.
    """
    made = json.loads(json.dumps(graph))
    for name, value in values.items():
        node, _, key = name.rpartition(".")
        found = [each for number, each in made.items()
                 if node in (number, name_of(each), each["class_type"], each["class_type"].removeprefix("LTX23"))]
        if len(found) != 1 or key not in found[0]["inputs"]:
            known = sorted(f"{number} {name_of(each)}.{one}" for number, each in made.items() for one in each["inputs"])
            raise ClientError(f"{len(found)} nodes have the name {node!r}, or it has no input {key!r}; there are: "
                              + ", ".join(known))
        found[0]["inputs"][key] = value
    return made


class Queue(Client):
    """One server's queue, for example `Queue("http://127.0.0.1:8188")`. For one thread; open one for each."""

    def graph(self, path: str | Path, values: Mapping[str, Any] | None = None) -> Graph:
        """A graph of a file in API form, with values; see `with_values`.

        Raises:
            ClientError: the file cannot be read, or has the form that the page saves; or as of `with_values`.
        """
        try:
            graph = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ClientError(f"{path} cannot be read as a graph: {error}") from None
        if not isinstance(graph, dict) or not all(isinstance(node, dict) and "class_type" in node
                                                  for node in graph.values()):
            raise ClientError(f"{path} is no graph in API form: take one of workflows/api, or make one with "
                              "Workflow > Export (API) on ComfyUI's page")
        return with_values(graph, values or {})

    def make(self, graph: Graph, folder: str | Path = ".", on_step: Callable[[str], None] | None = None) -> list[Path]:
        """Queue a graph, wait for its end, and download what it made.

        Args:
            graph: in API form.
            folder: where the files are put; made if it is not there.
            on_step: told what the running node says, each time that it changes: "768x512 · 5.04 s · step 7/30 ·
                3.1 s/step · 1:12 left".

        Raises:
            ClientError: the server refused the graph, a node failed, or somebody interrupted the run.
        """
        prompt_id = self.queue(graph)
        return self.fetch(self.follow(prompt_id, on_step), folder)

    def follow(self, prompt_id: str, on_step: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Wait for the end of a prompt; its entry of the history.

        Raises:
            ClientError: a node failed (its message), or the run was interrupted.
        """
        said = None
        for event in self.events(prompt_id):
            if event.type == "execution_error":
                raise ClientError(event.data["exception_message"].strip(), body=event.data)
            if event.type == "execution_interrupted":
                raise ClientError("The run was interrupted.", body=event.data)
            if on_step is not None and event.type == "binary" and event.data["kind"] == TEXT_FRAME:
                size = int.from_bytes(event.image[:4], "big")
                line = event.image[4 + size:].decode().partition("\n")[0]
                if line != said:  # it comes again where a line below it has changed
                    on_step(line)
                said = line
        return self.history(prompt_id)

    def fetch(self, entry: Mapping[str, Any], folder: str | Path = ".") -> list[Path]:
        """Download the files that a finished prompt saved."""
        made = []
        for file in files_of(entry):
            target = Path(folder) / Path(file["filename"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.request("/view?" + urllib.parse.urlencode(file)))
            made.append(target)
        return made


def files_of(entry: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Files in the output folder that a history entry lists: filename, subfolder, type."""
    for result in entry["outputs"].values():
        for kind in KINDS:
            for file in result.get(kind, []):
                if isinstance(file, dict) and file.get("type") == "output":
                    yield {name: file[name] for name in ("filename", "subfolder", "type")}


def _value(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", help="address, such as http://127.0.0.1:8188")
    parser.add_argument("graph", type=Path, help="file in API form, such as workflows/api/quick_start.json")
    parser.add_argument("values", nargs="*", type=_value, help="Node.input=value, such as Sampler.seed=7")
    parser.add_argument("-o", "--out", type=Path, default=Path(), help="folder for the files (default: this one)")
    options = parser.parse_args()
    queue = Queue(options.server)
    try:
        graph = queue.graph(options.graph, dict(options.values))
        for path in queue.make(graph, options.out, lambda line: print(line, file=sys.stderr)):
            print(path)
    except ClientError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
