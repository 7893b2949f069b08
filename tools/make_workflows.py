#!/usr/bin/env python3
"""Write `workflows/` through the real front end of ComfyUI: UI files, their API twins, and pictures of graphs.

Run from the repository root with the project's environment and a Chromium:

    .venv/bin/python -m tools.make_workflows

It starts a ComfyUI with the pack, sparse files with the headers of the official ones in its model folders (so that
the pictures name them), and small example files. The graphs are those of `workflow_graphs.py`; the front end turns them
into its own format, this script arranges them, and the front end's own export writes both files.
"""
from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ltx23_core.hub.catalogue import CATALOGUE
from tools.browser import FLAGS, find_browser
from tools.example_files import add_examples
from tools.host import Base, Server
from tools.install import FRONT_END, Place
from tools.workflow_graphs import CHOOSE, IC_LORA, Graph, Workflow, workflows

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = "ltx-2.3-22b-dev.safetensors"
GEMMA = "gemma-3-12b-it-qat-q4_0-unquantized"
UPSCALER = "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
LORA = "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
HUB = "https://huggingface.co/"
LIGHTRICKS = f"{HUB}Lightricks/LTX-2.3"
PACK = "ltx23-node-pack"  # name in the Comfy Registry, so that the Manager can offer the pack
NOTE_SIZE = (330, 380)
WIDTH = 330  # of a node; four columns of them are a page
HEIGHTS = {"LTX23Overlay": 560, "LTX23Prompt": 300, "LTX23DecodeToFile": 390, "SaveVideo": 330, "LoadImage": 300,
           "LTX23LongVideo": 400, "LTX23EnhancePrompt": 420, "LoadVideo": 300, "LoadImageMask": 300}
# Graphs whose pictures README and the help pages show; the templates' own are of results (make_thumbnails.py).
PICTURES = ROOT / "web" / "docs" / "pictures"
PICTURED = ("quick_start", "image_to_video", "keyframes", "ic_lora", "retake", "inpaint", "long_video")
PROMPT_HEIGHT = 780  # of a Sampler whose prompt field is in use
# Columns from the left: the model, what goes in, the run, what comes out.
COLUMNS = {"LTX23Overlay": 0, "LTX23Load": 0, "LTX23LoRA": 0, "LTX23Sampler": 2, "LTX23LatentUpscale": 2,
           "LTX23DecodeVideo": 3, "LTX23DecodeAudio": 3, "LTX23DecodeToFile": 3, "CreateVideo": 3, "SaveVideo": 3,
           "SaveAudio": 3}


# The note stands below the shorter of these, which do not grow: results need the room under the outputs, a preview
# that under the sampler. Where the second is empty it has that for itself: the whole page is no taller than a window.
NOTE_COLUMNS = (0, 1)


def note(workflow: Workflow) -> str:
    """What the workflow does, and which files it needs."""
    rows = [f"[{CHECKPOINT}]({LIGHTRICKS}) (46 GB) | `checkpoints`",
            f"[gemma_3_12B_it.safetensors]({HUB}Comfy-Org/ltx-2) (24 GB), or the folder of "
            f"[{GEMMA}]({HUB}google/{GEMMA}) | `text_encoders`"]
    rows += [f"[{UPSCALER}]({LIGHTRICKS}) (1 GB) | `latent_upscale_models`"] * workflow.upscaler
    rows += [f"[{LORA}]({LIGHTRICKS}) (7.6 GB) | `loras`"] * workflow.lora
    table = "\n".join(f"| {row} |" for row in ("file | folder under `models/`", "--- | ---", *rows))
    return (f"{workflow.text}\n\n{table}\n\nAny LTX-2.3 files will do: fp8, split files, GGUF, diffusers folders. "
            "**Overlay** finds them by itself (*auto*) and says what it took and what is missing. Press **R** after "
            "adding files.")


def with_defaults(graph: Graph, nodes: dict[str, Any]) -> Graph:
    """A graph with the default of every field that it leaves out.

    Args:
        graph: of `workflow_graphs`.
        nodes: what the server says about its nodes (/object_info).
    """
    whole: Graph = {}
    for key, each in graph.items():
        info = nodes[each["class_type"]]["input"]
        inputs: dict[str, Any] = {}
        for name, (kind, *rest) in {**info.get("required", {}), **info.get("optional", {})}.items():
            options = rest[0] if rest else {}
            listed = kind if isinstance(kind, list) else options.get("options", [])
            if name in each["inputs"]:
                inputs[name] = each["inputs"][name]
            elif options.get("forceInput"):
                continue
            elif isinstance(kind, list) or kind == "COMBO":
                inputs[name] = options.get("default", next(iter(listed), ""))
            elif kind in ("INT", "FLOAT", "BOOLEAN", "STRING"):
                inputs[name] = options.get("default", "" if kind == "STRING" else 0)
        whole[key] = {"class_type": each["class_type"], "inputs": inputs}
    return whole


def columns(graph: Graph) -> list[list[str]]:
    """Node ids in columns, above one another in the order in which they run; the note's own may be empty."""
    depth: dict[str, int] = {}

    def of(key: str) -> int:
        if key not in depth:
            links = (value[0] for value in graph[key]["inputs"].values() if isinstance(value, list))
            depth[key] = max((of(link) + 1 for link in links), default=0)
        return depth[key]

    stacked: list[list[str]] = [[], [], [], []]
    for key in sorted(graph, key=lambda key: (of(key), int(key))):
        stacked[COLUMNS.get(graph[key]["class_type"], 1)].append(key)
    return [column for number, column in enumerate(stacked) if column or number in NOTE_COLUMNS]


def size(each: dict[str, Any]) -> tuple[int, int]:
    """Smallest width and height of a node on the page; 0: as small as it can be."""
    kind, inputs = each["class_type"], each["inputs"]
    own_prompt = kind == "LTX23Sampler" and "context" not in inputs and isinstance(inputs.get("prompt"), str)
    return WIDTH, PROMPT_HEIGHT if own_prompt else HEIGHTS.get(kind, 0)


# Runs in the page. Everything is serialised there: handing objects to Python turns `undefined` into null, which
# makes files that the front end's schema refuses.
BUILD = """async ({id, graph, columns, sizes, noteColumns, noteSize, text, pack, version, models, titles}) => {
  const app = window.app, gap = 20, title = 40;
  app.graph.clear();
  await app.loadApiJson(graph, "workflow");
  const sheet = LiteGraph.createNode("MarkdownNote");
  app.graph.add(sheet);
  sheet.title = "About";
  sheet.widgets[0].value = text;
  let x = 0;
  const ends = [];
  for (const column of columns) {
    let y = 0, widest = column.length ? 0 : noteSize[0];
    for (const key of column) {
      const node = app.graph.getNodeById(Number(key));
      const [width, height] = sizes[key];
      const small = node.computeSize();
      node.pos = [x, y];
      node.setSize([Math.max(width, small[0]), Math.max(height, small[1])]);
      y += node.size[1] + title + gap / 2;
      widest = Math.max(widest, node.size[0]);
      for (const widget of node.widgets ?? [])
        if (widget.name === "control_after_generate") widget.value = "fixed";
      if (node.type.startsWith("LTX23")) Object.assign(node.properties, {cnr_id: pack, ver: version});
      if (titles[node.type]) node.title = titles[node.type];
      const named = models.filter((each) => (node.widgets ?? []).some(({value}) => value === each.name));
      if (named.length) node.properties.models = named;
    }
    ends.push([x, y]);
    x += widest + gap;
  }
  sheet.setSize(noteSize);
  sheet.pos = noteColumns.map((number) => ends[number]).reduce((best, end) => (end[1] < best[1] ? end : best));
  app.graph.setDirtyCanvas(true, true);
  await new Promise((done) => setTimeout(done, 500));
  const {output} = await app.graphToPrompt();
  const ui = app.graph.serialize();
  ui.id = id;
  ui.extra = {};
  ui.models = models;
  return {ui: JSON.stringify(ui, null, 2), api: JSON.stringify(output, null, 2)};
}"""

# Puts the graph's box in the middle of the free part of the window and returns the part of the page it covers.
FRAME = """([left, top, width, height]) => {
  const app = window.app, nodes = app.graph._nodes;
  const x0 = Math.min(...nodes.map((n) => n.pos[0])), y0 = Math.min(...nodes.map((n) => n.pos[1] - 30));
  const x1 = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
  const y1 = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
  const scale = Math.min(width / (x1 - x0), height / (y1 - y0), 1);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [left / scale - x0, top / scale - y0];
  app.canvas.deselectAll?.();
  app.canvas.setDirty(true, true);
  return {x: left - 15, y: top - 30, width: (x1 - x0) * scale + 30, height: (y1 - y0) * scale + 45};
}"""


def version() -> str:
    """The pack's version, from pyproject.toml."""
    return re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def models(workflow: Workflow) -> list[dict[str, str]]:
    """Files that the page itself offers to download, those that need no login.

    Old front ends look at this list of the file, new ones at the nodes, and there only at names that a widget shows.
    """
    wanted = {"dev", "gemma-comfy"}
    if workflow.upscaler:
        wanted.add("upscaler-x2")
    if workflow.lora:
        wanted.add("distilled-lora")
    found = []
    for entry in CATALOGUE:
        name = entry.path.rpartition("/")[2]
        if entry.name in wanted or (name == IC_LORA and workflow.name == "ic_lora"):
            found.append({"name": name, "url": f"{HUB}{entry.repo}/resolve/main/{entry.path}",
                          "directory": entry.folder})
    return found


def write(page: Any, workflow: Workflow, title: str, nodes: dict[str, Any], folder: Path) -> None:  # noqa: ANN401
    """Build one workflow on an open page and write its two files."""
    graph = with_defaults(workflow.graph, nodes)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{workflow.name}"))
    made = page.evaluate(BUILD, {
        "graph": graph, "columns": columns(graph), "sizes": {key: size(each) for key, each in graph.items()},
        "noteColumns": NOTE_COLUMNS, "noteSize": NOTE_SIZE, "text": note(workflow), "pack": PACK, "version": version(),
        "models": models(workflow), "titles": CHOOSE, "id": identity})
    got = without_leftovers(json.loads(made["api"]), graph)
    (folder / f"{title}.json").write_text(made["ui"] + "\n", encoding="utf-8")
    text = json.dumps(got, indent=2, ensure_ascii=False)
    (folder / "api" / f"{workflow.name}.json").write_text(text + "\n", encoding="utf-8")
    if workflow.name in PICTURED:
        shoot(page, PICTURES / f"{workflow.name}.jpg")
    for each in got.values():
        each.pop("_meta", None)
    if json.loads(json.dumps(graph)) != got:
        raise SystemExit(f"{workflow.name}: the front end exports another graph than was given:\n{made['api']}\n"
                         f"{json.dumps(graph, indent=2)}")
    print(f"{workflow.name}: {len(got)} nodes")


def shoot(page: Any, target: Path) -> None:  # noqa: ANN401
    """A picture of the graph on the page."""
    from PIL import Image

    page.wait_for_timeout(1500)  # previews of example files
    clip = page.evaluate(FRAME, [110, 130, 1400, 1400])
    page.wait_for_timeout(800)
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.thumbnail((1000, 1200))
    picture.save(target, quality=75)


def without_leftovers(exported: Graph, graph: Graph) -> Graph:
    """An exported graph without the values of buttons and previews that only the page has."""
    for key, each in exported.items():
        each["inputs"] = {name: value for name, value in each["inputs"].items() if name in graph[key]["inputs"]}
    return exported


def write_all(page: Any, server: Server, folder: Path, only: list[str]) -> None:  # noqa: ANN401
    """Open the server's page and write the workflows."""
    from tests.host.client import HostClient

    nodes = HostClient(server.url, server.base.root).get("/object_info")
    for number, workflow in enumerate(workflows(), 1):
        if not only or workflow.name in only:
            page.goto(server.url, wait_until="domcontentloaded")  # anew: the page remembers pictures by node id
            page.wait_for_function("() => window.app && window.app.graph && window.LiteGraph", timeout=90_000)
            page.wait_for_timeout(3000)
            write(page, workflow, workflow.title(number), nodes, folder)


def main() -> None:
    """Start a server and write every workflow, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "workflows", help="folder to write (default: workflows)")
    parser.add_argument("names", nargs="*", help="workflows to write (default: all)")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    (options.out / "api").mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="ltx23-workflows-"))
    base = Base(root).create()
    base.link_pack(PACK, ROOT)
    add_examples(base)
    server = Server(Place(ROOT).comfy(FRONT_END), base, root / "server.log", options=("--cpu",))
    server.start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(find_browser()), args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1700, "height": 1600})
            write_all(page, server, options.out, options.names)
            browser.close()
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
