"""ComfyUI's page in a real browser: drop a file, see what the page says, run, look at the result."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.host import graphs

READY_MS, RUN_MS = 120_000, 180_000
WAIT_MS = 60_000  # for what comes at once on a machine that has nothing else to do

OFFER = "Comfy.Workflow.ShowMissingModelsWarning"  # a setting of the pinned page

# Its first graph is there, and nothing is being loaded over it.
READY = """() => window.app?.vueAppReady && window.LiteGraph?.registered_node_types?.LTX23Sampler
  && (window.app.api ?? window.comfyAPI?.api?.api)?.clientId && window.app.extensionManager?.workflow?.activeWorkflow
  && !window.app.extensionManager.spinner && !window.app.configuringGraph && window.app.graph?._nodes.length > 0"""
NO_DIALOG = "() => !document.querySelector('.p-dialog, [data-testid=error-overlay]')"
DROP = """async ([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, {type: "application/json"}));
  const target = document.querySelector("#graph-canvas");
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true,
                                              clientX: 700, clientY: 500}));
}"""
STATE = """() => ({
  types: window.app.graph._nodes.map((node) => node.type),
  missing: window.app.graph._nodes.map((node) => node.type)
    .filter((type) => !(type in window.LiteGraph.registered_node_types)),
  toasts: [...document.querySelectorAll(".p-toast-message")].map((each) => each.innerText),
  dialogs: [...document.querySelectorAll(".p-dialog, [data-testid=error-overlay]")].map((each) => each.innerText),
})"""
LISTEN = """() => {
  window.seen = {previews: 0, executed: [], errors: []};
  const api = window.app.api ?? window.comfyAPI?.api?.api;
  for (const event of ["b_preview", "ltx23.preview"])
    api.addEventListener(event, () => { window.seen.previews += 1; });
  api.addEventListener("executed", (event) => window.seen.executed.push(String(event.detail.node)));
  api.addEventListener("execution_error", (event) => window.seen.errors.push(event.detail.exception_message));
}"""
FIT = """() => {
  const nodes = window.app.graph._nodes, canvas = window.app.canvas;
  const low = [0, 1].map((i) => Math.min(...nodes.map((n) => n.pos[i] - (i ? 40 : 0))));
  const high = [0, 1].map((i) => Math.max(...nodes.map((n) => n.pos[i] + n.size[i])));
  const scale = Math.min(1500 / (high[0] - low[0]), 700 / (high[1] - low[1]), 1);
  canvas.ds.scale = scale;
  canvas.ds.offset = [100 / scale - low[0], 200 / scale - low[1]];
  canvas.setDirty(true, true);
}"""
# The result: videos of the input folder, which Load Video shows, are none, nor are the tiles of earlier results.
VIDEO = """() => [...document.querySelectorAll("video")]
  .filter((video) => !video.currentSrc.includes("type=input") && !video.closest(".ltx23-results"))
  .map((video) => [video.videoWidth, video.videoHeight, video.readyState, video.duration])
  .find(([width, , ready]) => width > 0 && ready >= 2)"""
RUN_BUTTON = "[data-testid=queue-button] button, button[data-testid=queue-button]"


class ComfyPage:
    """One open tab; `errors` collects what scripts threw."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1700, "height": 1000})
        self.errors: list[str] = []
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=READY_MS)
        self.page.wait_for_timeout(500)
        self.page.evaluate(LISTEN)

    def drop(self, name: str, text: str) -> dict[str, Any]:
        """Drop a file on the canvas; what the page then has and says."""
        self.page.evaluate("() => window.app.graph.clear()")
        self.page.evaluate(DROP, [name, text])
        self.page.wait_for_function(READY, timeout=WAIT_MS)
        self.page.wait_for_timeout(1000)  # toasts and dialogs come a moment later
        return self.page.evaluate(STATE)

    def close_dialogs(self) -> None:
        """Close what the page has opened by itself, such as its offer of missing models, until it stays quiet."""
        quiet = 0
        while quiet < 3:
            quiet += 1
            if self.page.locator(".p-dialog-mask").count():
                self.page.keyboard.press("Escape")
                quiet = 0
            self.page.wait_for_timeout(500)

    def export(self) -> dict[str, Any]:
        """The API form that the page makes of its graph; of what newer pages note about nodes only the title.

        A newer ComfyUI adds to the names of some of its own nodes that they are deprecated.
        """
        made = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
        graph = json.loads(self.page.evaluate(made))
        for node in graph.values():
            node["_meta"] = {"title": node["_meta"]["title"].removesuffix(" (DEPRECATED)")}
        return graph

    def run(self) -> list[float]:
        """Press Run; width, height, ready state and seconds of the video that then plays."""
        self.page.locator(RUN_BUTTON).first.click()
        self.page.wait_for_function(f"() => window.seen.errors.length || ({VIDEO})()", timeout=RUN_MS)
        assert self.seen["errors"] == []
        return self.page.wait_for_function(VIDEO, timeout=RUN_MS).json_value()

    @property
    def seen(self) -> dict[str, Any]:
        """Previews, executed nodes and errors since the page opened."""
        return self.page.evaluate("() => window.seen")

    def screenshot(self, path: Path) -> None:
        """The window with the whole graph in it."""
        self.page.evaluate(FIT)
        self.page.wait_for_timeout(1200)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))


def small_ui(name: str) -> dict[str, Any]:
    """A shipped UI file with small sizes and a file name of its own; layout and links as shipped."""
    ui = json.loads(graphs.ui_file(name).read_text(encoding="utf-8"))
    values = {**graphs.values_of(name), "filename_prefix": f"browser/{name}"}
    for node in ui["nodes"]:
        names = [each["name"] for each in node.get("inputs", []) if "widget" in each]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control_after_generate")
        old = node.get("widgets_values", [])
        node["widgets_values"] = [values.get(key, value) for key, value in zip(names, old, strict=False)]
        node["widgets_values"] += old[len(names):]
    return ui
