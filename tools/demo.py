"""`run.py demo`: one workflow of the pack in a real ComfyUI, from the prompt to the mp4."""
from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.client import Client, ClientError, Graph
from tools.host import Base, ComfyUI, HostError, Server, clean_environment, find_python, port_is_free
from tools.install import Place, install

PACK_NAME = "ltx23"
UI_PORT = 8188
OLDEST_COMFYUI = "0.3.75"
BAR = 24
NAME = "ltx-2.3-tiny-world"
CHECKPOINT, TEXT_ENCODER = f"{NAME}.safetensors", "gemma"
TINY_MODEL = {CHECKPOINT: "checkpoints", TEXT_ENCODER: "text_encoders",  # name -> folder of ComfyUI's models
              f"{NAME}-spatial-upscaler-x2.safetensors": "latent_upscale_models",
              f"{NAME}-distilled-lora.safetensors": "loras"}
PROMPT = "a red ball bounces from left to right on a blue background"
# Sizes that the tiny model was trained at; class of node -> values of its inputs.
SMALL = {
    "LTX23Overlay": {"checkpoint": CHECKPOINT, "text_encoder": TEXT_ENCODER},
    "LTX23Sampler": {"width": 192, "height": 128, "frames": 25},
}
UI_WORKFLOWS = {"01 Quick start": "LTX-2.3 quick start", "02 Text to video": "LTX-2.3 demo"}  # file -> name there
DESCRIBE = """
import av, sys
with av.open(sys.argv[1]) as file:
    video = file.streams.video[0]
    audio = file.streams.audio[0] if file.streams.audio else None
    sound = f"{audio.rate} Hz, {audio.channels} channels" if audio else "no sound"
    print(f"{file.duration / 1e6:.2f} s, {video.width}x{video.height}, {video.frames} frames at "
          f"{float(video.average_rate):g} fps, {sound}")
"""


class DemoError(RuntimeError):
    """The demo cannot go on; the message is a sentence for the user."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the demo."""
    parser = argparse.ArgumentParser(
        prog="run.py demo", description="Generate a video with sound from a prompt, in a real ComfyUI, with a tiny "
        "model that is part of this repository: LTX-2.3's architecture, trained on a small world of moving shapes.")
    parser.add_argument("--prompt", default=PROMPT, help="what shall be seen and heard (default: %(default)s)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="image to start from: image to video")
    parser.add_argument("--ui", action="store_true", help="leave ComfyUI running and print its address, until Ctrl-C")
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help="use the ComfyUI installed in DIR, with "
                        "its own venv or else the Python that runs this; nothing in it is changed (models, output "
                        "and settings of the demo stay in .host/demo)")
    parser.add_argument("--port", type=port_number, default=0, help="port of the server (default: a free one; with "
                        f"--ui {UI_PORT} if it is free)")
    return parser.parse_args(arguments)


def main(place: Place, arguments: list[str]) -> int:
    """Install what is missing, start ComfyUI, make the video, stop ComfyUI.

    Raises:
        InstallError, HostError, ClientError, DemoError: a step failed, in words for the user.
    """
    started = time.monotonic()
    options = parse(arguments)
    if options.image and not options.image.is_file():
        raise DemoError(f"There is no image {options.image}.")
    graph = load_workflow(place.root, "image_to_video" if options.image else "text_to_video")
    comfy = choose_comfyui(place, options.comfyui)
    server = prepare(place, comfy, options)
    say_what_it_knows(place, comfy, options.prompt)
    say(f"Starting ComfyUI {comfy.version} ...")
    with server:
        client = Client(server.url)
        try:
            make_video(client, server, graph, options)
        except ClientError as error:
            if server.running():
                raise
            raise HostError(f"ComfyUI ended in the middle of the run. {server.tail()}") from error
        finally:
            client.close()
        say(f"Done in {time.monotonic() - started:.0f} s.")
        if options.ui:
            names = " and ".join(f'"{name}"' for name in UI_WORKFLOWS.values())
            say(f"ComfyUI is at {server.url} (in Workflows, key W: {names}). Ctrl-C ends it.")
            wait_for_end(server)
    return 0


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def choose_comfyui(place: Place, folder: Path | None) -> ComfyUI:
    """The ComfyUI in the folder the user names, or our own, installed if need be."""
    if folder is None:
        install(place, ("host",), say=say)
        return place.comfy()
    folder = folder.expanduser().resolve()
    comfy = ComfyUI(folder, find_python(folder))
    if comfy.version != "unknown" and numbers(comfy.version) < numbers(OLDEST_COMFYUI):
        raise DemoError(f"ComfyUI {comfy.version} in {folder} is too old: the pack needs {OLDEST_COMFYUI} or newer. "
                        "Update it, or leave --comfyui out.")
    say(f"Using ComfyUI {comfy.version} in {folder} with {comfy.python}")
    return comfy


def numbers(version: str) -> list[int]:
    """A version as numbers to compare."""
    return [int(part) for part in re.findall(r"\d+", version)]


def port_number(text: str) -> int:
    """A TCP port from the command line."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def prepare(place: Place, comfy: ComfyUI, options: argparse.Namespace) -> Server:
    """The demo's folders with the pack and the tiny model in them, and a server over them."""
    base = Base(place.host / "demo").create()
    base.link_pack(PACK_NAME, place.root)
    add_tiny_model(base, place.root)
    if options.ui:
        for name, title in UI_WORKFLOWS.items():
            save_ui_workflow(place.root / "workflows" / f"{name}.json", base, title, options.prompt)
    port = options.port or (UI_PORT if options.ui and port_is_free(UI_PORT) else 0)
    device, environment = (), {}
    if not comfy.has_accelerator():
        device = ("--cpu",)
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # tensors this small only wait
    return Server(comfy, base, base.root / "server.log", port=port, options=device, environment=environment)


def add_tiny_model(base: Base, root: Path) -> dict[str, Path]:
    """Put the tiny model where a user puts the real one; name of each file or folder -> its path there."""
    return {name: base.add_model(folder, root / "tiny" / name) for name, folder in TINY_MODEL.items()}


def load_workflow(root: Path, name: str) -> Graph:
    """A workflow of the pack in API format."""
    path = root / "workflows" / "api" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DemoError(f"{path} is missing: is this clone complete?") from None


def fill(graph: Graph, values: dict[str, dict[str, Any]]) -> Graph:
    """A copy of a graph with other input values, by class of node; links are left as they are.

    Raises:
        DemoError: the graph has no such node, or the node no such input.
    """
    graph = copy.deepcopy(graph)
    for class_type, inputs in values.items():
        nodes = [node for node in graph.values() if node["class_type"] == class_type]
        unknown = [name for node in nodes for name in inputs if name not in node["inputs"]]
        if not nodes or unknown:
            raise DemoError(f"The workflow does not fit the demo: no {class_type} with {', '.join(unknown or inputs)}.")
        for node in nodes:
            node["inputs"].update(inputs)
    return graph


def save_ui_workflow(source: Path, base: Base, title: str, prompt: str) -> None:
    """Put a workflow of the pack, with the demo's model, prompt and sizes, where ComfyUI's page lists workflows."""
    workflow = json.loads(source.read_text(encoding="utf-8"))
    workflow.pop("models", None)  # of the released model: the page would offer to download them
    for node in workflow["nodes"]:
        node["properties"].pop("models", None)
        names = [entry["widget"]["name"] for entry in node.get("inputs", []) if "widget" in entry]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control_after_generate")  # a widget that is not an input
        values = dict(zip(names, node.get("widgets_values") or [], strict=False))
        values.update(SMALL.get(node["type"], {}))
        if values.get("prompt"):
            values["prompt"] = prompt
        if values:
            node["widgets_values"] = list(values.values())
    target = base.user / "default" / "workflows" / f"{title}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(workflow), encoding="utf-8")


def say_what_it_knows(place: Place, comfy: ComfyUI, prompt: str) -> None:
    """Say which words of a prompt the tiny model does not know; ComfyUI's Python reads them, for that has numpy."""
    result = subprocess.run([str(comfy.python), "-m", "tools.tiny_world.note", prompt], check=False, text=True,
                            capture_output=True, cwd=place.root, env=clean_environment())
    if result.returncode == 0 and result.stdout:
        say(f"Note: {result.stdout}")


def make_video(client: Client, server: Server, graph: Graph, options: argparse.Namespace) -> None:
    """Queue the workflow, show its progress, and say where the video is."""
    values = copy.deepcopy(SMALL)
    if options.image:
        values["LoadImage"] = {"image": client.upload(options.image)}
    values["LTX23Prompt"] = {"prompt": options.prompt}
    graph = fill(graph, values)
    prompt_id = client.queue(graph)
    follow(client, prompt_id, graph)
    videos = [entry for ui in client.history(prompt_id)["outputs"].values() for entry in ui.get("images", [])
              if entry["filename"].endswith(".mp4")]
    if not videos:
        raise DemoError("The workflow ran, but it saved no mp4.")
    for entry in videos:
        path = server.base.root / entry["type"] / entry["subfolder"] / entry["filename"]
        say(f"Video: {path}\n       {describe(server.comfy.python, path)}, {path.stat().st_size // 1024} KiB")


def follow(client: Client, prompt_id: str, graph: Graph) -> None:
    """Draw a progress bar for the node that runs, and one line for each that has run, until the prompt ends.

    Raises:
        DemoError: a node failed; the message is the node's own.
    """
    bar = Bar(lambda node: graph.get(node, {}).get("_meta", {}).get("title") or f"node {node}")
    for event in client.events(prompt_id):
        if event.type == "progress_state":
            bar.hear(event.data["nodes"])
        elif event.type == "executing" and event.data.get("node"):
            bar.show(event.data["node"], 0, 1)
        elif event.type == "execution_error":
            bar.end()
            data = event.data
            raise DemoError(f"{data['node_type']} (node {data['node_id']}) failed: {data['exception_message'].strip()}")
        elif event.type == "execution_interrupted":
            bar.end()
            raise DemoError("The run was interrupted from another client.")
    bar.end()


class Bar:
    """One line that says which node runs and how far it is; where the output is no terminal, one line a node.

    A node may begin, wait for others that it asks for, and go on later: its line says all of its time, at its end.
    """

    def __init__(self, title: Callable[[str], str]) -> None:
        """Args: title: from a node's id to its name."""
        self._title, self._node, self._since, self._shown = title, "", 0.0, ""
        self._spent: dict[str, float] = {}  # seconds of nodes that have begun and have no line yet

    def hear(self, states: dict[str, dict[str, Any]]) -> None:
        """Take ComfyUI's states of all nodes; one that waits counts as running there."""
        for node, state in states.items():
            if state["state"] == "finished":
                self._print(node)
            elif node == self._node:
                self.show(node, state["value"], state["max"])

    def show(self, node: str, value: float, maximum: float) -> None:
        """Draw, or go on to another node."""
        if node != self._node:
            self._pause()
            self._node, self._since = node, time.monotonic()
            self._spent.setdefault(node, 0.0)
        done = int(BAR * value / maximum) if maximum else 0
        line = f"  {self._title(node):<16} [{'#' * done:<{BAR}}] {value:g}/{maximum:g}"
        if sys.stdout.isatty() and line != self._shown:
            print(f"\r{line:<79}", end="", flush=True)
            self._shown = line

    def end(self) -> None:
        """Print the lines that are left."""
        self._pause()
        for node in tuple(self._spent):
            self._print(node)

    def _pause(self) -> None:
        if self._node:
            self._spent[self._node] += time.monotonic() - self._since
        self._node = ""

    def _print(self, node: str) -> None:
        """What a node took, in place of the bar; nothing for one that did not run or has its line."""
        if node == self._node:
            self._pause()
        if node not in self._spent:
            return
        line = f"  {self._title(node):<16} {self._spent.pop(node):.1f} s"
        if sys.stdout.isatty():
            line = f"\r{line:<79}"
        print(line, flush=True)


def describe(python: Path, video: Path) -> str:
    """Duration, size and sound of a video, read with the av package that every ComfyUI has."""
    result = subprocess.run([str(python), "-c", DESCRIBE, str(video)], check=False, text=True, capture_output=True,
                            env=clean_environment())
    return result.stdout.strip() or "could not be read back"


def wait_for_end(server: Server) -> None:
    """Return on Ctrl-C.

    Raises:
        HostError: the server ended by itself.
    """
    try:
        while server.running():
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("\nStopping ComfyUI.")
        return
    raise HostError(f"ComfyUI ended by itself. {server.tail()}")
