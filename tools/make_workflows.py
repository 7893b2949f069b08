#!/usr/bin/env python3
"""Write `workflows/` through the real front end of ComfyUI: UI files, their pictures, and the API twins.

Run from the repository root with the project's environment and a Chromium:

    .venv/bin/python -m tools.make_workflows --url http://127.0.0.1:8188

The server must have the pack, the input file example.png, and in its model folders the official files or sparse ones
with their headers, which the pictures then name. The graphs below are the source; the front end turns them into its own
format, this script arranges them, and the front end's own export writes both files.
"""
from __future__ import annotations

import argparse
import io
import json
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = "ltx-2.3-22b-dev.safetensors"
GEMMA = "gemma-3-12b-it-qat-q4_0-unquantized"
HUB = "https://huggingface.co/"
CHECKPOINT_URL = f"{HUB}Lightricks/LTX-2.3/resolve/main/{CHECKPOINT}"
PACK = "ltx23-node-pack"  # name in the Comfy Registry, so that the Manager can offer the pack
PROMPT = ("A golden retriever runs along a sunlit beach and splashes through shallow waves, the camera tracking beside "
          "it at the height of its shoulders. Water drops sparkle in the low evening sun. Waves roll in softly, water "
          "splashes with every step, and the dog barks twice.")
IMAGE_PROMPT = ("The camera slowly moves closer while the scene comes to life: light shifts, hair and cloth move in a "
                "gentle breeze. Soft wind and distant birdsong are heard.")
FILES_NOTE = f"""## Files

| file | folder under `models/` |
| --- | --- |
| [{CHECKPOINT}]({HUB}Lightricks/LTX-2.3) (46 GB) | `checkpoints` |
| [gemma_3_12B_it.safetensors]({HUB}Comfy-Org/ltx-2) (24 GB), or the folder of [{GEMMA}]({HUB}google/{GEMMA}) | \
`text_encoders` |

Any LTX-2.3 files will do: fp8, split files, diffusers folders. **Overlay** finds them by itself (*auto*) and says \
what it took and what is missing. Press **R** after adding files."""

# API ids, also the ids of the nodes on the page.
OVERLAY, LOAD, PROMPT_NODE, SAMPLER, VIDEO, AUDIO, CREATE, SAVE, IMAGE, CONDITION = map(str, range(1, 11))


@dataclass(frozen=True)
class Workflow:
    """One graph: API form, where each node stands (x, y, width, height; height 0: as small as it can be), the note."""

    name: str
    graph: dict[str, dict[str, Any]]
    places: dict[str, tuple[int, int, int, int]]
    note: tuple[int, int, int, int]
    text: str = field(default=FILES_NOTE)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401
    """One node of an API graph."""
    return {"class_type": class_type, "inputs": inputs}


def base() -> dict[str, dict[str, Any]]:
    """Overlay, Load and Sampler with the official defaults: what every workflow has."""
    return {
        OVERLAY: node("LTX23Overlay", **dict.fromkeys(
            ("checkpoint", "text_encoder", "upsampler", "distilled_lora", "variant", "text_projection", "video_vae",
             "audio_vae"), "auto")),
        LOAD: node("LTX23Load", overlay=[OVERLAY, 0], precision="auto", attention="auto"),
        SAMPLER: node("LTX23Sampler", model=[LOAD, 0], prompt="", recipe="auto", width=768, height=512, frames=121,
                      fps=24.0, seed=10, steps=0, negative_prompt=""),
    }


def with_files(graph: dict[str, dict[str, Any]], prompt: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Add Prompt, the two decoders and ComfyUI's own Create Video and Save Video."""
    graph[PROMPT_NODE] = node("LTX23Prompt", model=[LOAD, 0], prompt=prompt, negative_prompt="")
    graph[SAMPLER]["inputs"]["context"] = [PROMPT_NODE, 0]
    graph[VIDEO] = node("LTX23DecodeVideo", model=[LOAD, 0], video=[SAMPLER, 0])
    graph[AUDIO] = node("LTX23DecodeAudio", model=[LOAD, 0], audio=[SAMPLER, 1])
    graph[CREATE] = node("CreateVideo", images=[VIDEO, 0], fps=[SAMPLER, 2], audio=[AUDIO, 0])
    graph[SAVE] = node("SaveVideo", video=[CREATE, 0], filename_prefix=prefix, format="auto", codec="auto")
    return graph


def workflows() -> list[Workflow]:
    """The graphs that ship."""
    quick = base()
    quick[SAMPLER]["inputs"]["prompt"] = PROMPT
    quick[VIDEO] = node("LTX23DecodeToFile", model=[LOAD, 0], video=[SAMPLER, 0], audio=[SAMPLER, 1],
                        filename_prefix="video/LTX-2.3")
    text = with_files(base(), PROMPT, "video/LTX-2.3")
    image = with_files(base(), IMAGE_PROMPT, "video/LTX-2.3")
    image[IMAGE] = node("LoadImage", image="example.png")
    image[CONDITION] = node("LTX23ImageCondition", image=[IMAGE, 0], frame=0, strength=1.0, crf=33)
    image[SAMPLER]["inputs"]["conditions"] = [CONDITION, 0]
    # Columns, left to right as the data flows.
    row = {OVERLAY: (0, 0, 390, 430), LOAD: (430, 0, 250, 0)}
    places = row | {PROMPT_NODE: (720, 0, 400, 330), SAMPLER: (1160, 0, 350, 690), VIDEO: (1550, 0, 230, 0),
                    AUDIO: (1550, 120, 230, 0), CREATE: (1820, 0, 230, 0), SAVE: (2090, 0, 400, 330)}
    return [
        Workflow("quick_start", quick, row | {SAMPLER: (720, 0, 420, 780), VIDEO: (1180, 0, 400, 400)},
                 (0, 500, 390, 240)),
        Workflow("text_to_video", text, places, (0, 500, 390, 240)),
        Workflow("image_to_video", image, places | {
            IMAGE: (430, 380, 250, 310), CONDITION: (720, 380, 400, 0)}, (0, 500, 390, 240)),
    ]


# Runs in the page. Everything is serialised there: handing objects to Python turns `undefined` into null, which
# makes files that the front end's schema refuses.
BUILD = """async ({id, graph, places, note, text, pack, version, models}) => {
  const app = window.app;
  app.graph.clear();
  await app.loadApiJson(graph, "workflow");
  for (const [id, [x, y, width, height]] of Object.entries(places)) {
    const node = app.graph.getNodeById(Number(id));
    const small = node.computeSize();
    node.pos = [x, y];
    node.setSize([Math.max(width, small[0]), Math.max(height, small[1])]);
    for (const widget of node.widgets ?? [])
      if (widget.name === "control_after_generate") widget.value = "fixed";
    if (node.type.startsWith("LTX23")) Object.assign(node.properties, {cnr_id: pack, ver: version});
    if (node.type === "LTX23Overlay") node.properties.models = models;
  }
  const sheet = LiteGraph.createNode("MarkdownNote");
  app.graph.add(sheet);
  sheet.pos = [note[0], note[1]];
  sheet.setSize([note[2], note[3]]);
  sheet.title = "Files";
  sheet.widgets[0].value = text;
  app.graph.setDirtyCanvas(true, true);
  await new Promise((done) => setTimeout(done, 500));
  const {output} = await app.graphToPrompt();
  const ui = app.graph.serialize();
  ui.id = id;
  ui.extra = {};
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


def write(page: Any, workflow: Workflow, folder: Path) -> None:  # noqa: ANN401
    """Build one workflow on an open page and write its three files."""
    from PIL import Image

    models = [{"name": CHECKPOINT, "url": CHECKPOINT_URL, "directory": "checkpoints"}]
    made = page.evaluate(BUILD, {"graph": workflow.graph, "places": workflow.places, "note": workflow.note,
                                 "text": workflow.text, "pack": PACK, "version": version(), "models": models,
                                 "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{workflow.name}"))})
    (folder / f"{workflow.name}.json").write_text(made["ui"] + "\n", encoding="utf-8")
    (folder / "api" / f"{workflow.name}.json").write_text(made["api"] + "\n", encoding="utf-8")
    clip = page.evaluate(FRAME, [110, 180, 1680, 800])
    page.wait_for_timeout(800)
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.thumbnail((1400, 1400))
    picture.save(folder / f"{workflow.name}.jpg", quality=88)
    wanted, got = json.loads(json.dumps(workflow.graph)), json.loads(made["api"])
    for each in got.values():
        each.pop("_meta", None)
    if wanted != got:
        raise SystemExit(f"{workflow.name}: the front end exports another graph than was given:\n{made['api']}")
    print(f"{workflow.name}: {len(got)} nodes, picture {picture.width}x{picture.height}")


def main() -> None:
    """Open the page and write every workflow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="address of a running ComfyUI with the pack")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="path of Chromium or Chrome")
    parser.add_argument("--out", type=Path, default=ROOT / "workflows", help="folder to write (default: workflows)")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    (options.out / "api").mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.goto(options.url, wait_until="domcontentloaded")
        page.wait_for_function("() => window.app && window.app.graph && window.LiteGraph", timeout=90_000)
        page.wait_for_timeout(3000)
        for workflow in workflows():
            write(page, workflow, options.out)
        browser.close()


if __name__ == "__main__":
    main()
